// What functions written for Node expect of it: `Buffer`, and of `crypto` what is made at once. Nothing here leads to a module of Node.

import { once } from "./once.js";

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
const { fromCharCode } = String;
const MOST_RANDOM_BYTES = 65536;

const READ = {
  hex: (text) => Uint8Array.fromHex(text.length % 2 ? text.slice(0, -1) : text),
  base64: (text) => Uint8Array.fromBase64(text.replace(/=+$/, "").replace(/-/g, "+").replace(/_/g, "/")),
  latin1: (text) => Uint8Array.from(text, (character) => character.charCodeAt(0)),
  utf8: (text) => encoder.encode(text),
};
const WRITTEN = {
  hex: (bytes) => bytes.toHex(),
  base64: (bytes) => bytes.toBase64(),
  base64url: (bytes) => bytes.toBase64({ alphabet: "base64url", omitPadding: true }),
  latin1: (bytes) => Array.from(bytes, (byte) => fromCharCode(byte)).join(""),
  utf8: (bytes) => decoder.decode(bytes),
};
const SAME = { "utf-8": "utf8", binary: "latin1", ascii: "latin1" };

const named = (table, encoding) => {
  const name = String(encoding ?? "utf8").toLowerCase();
  const found = table[SAME[name] ?? name] ?? (name === "base64url" ? table.base64 : undefined);
  if (found === undefined) throw new TypeError(`there is no encoding ${name.slice(0, 20)}`);
  return found;
};
const over = (bytes) => new Buffer(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/** Node's class, as far as functions that handle events use it. */
class Buffer extends Uint8Array {
  static from(value, encoding, length) {
    if (typeof value === "string") return over(named(READ, encoding)(value));
    if (value instanceof ArrayBuffer) return new Buffer(value, encoding, length);
    return over(Uint8Array.from(value?.type === "Buffer" ? value.data : value));
  }

  static alloc(size, fill = 0) { return new Buffer(size).fill(fill); }
  static allocUnsafe(size) { return new Buffer(size); }
  static isBuffer(value) { return value instanceof Buffer; }
  static byteLength(value, encoding) { return Buffer.from(value, encoding).length; }
  static concat(list) {
    const parts = Array.from(list);
    const whole = new Buffer(parts.reduce((size, part) => size + part.length, 0));
    let at = 0;
    for (const part of parts) {
      whole.set(part, at);
      at += part.length;
    }
    return whole;
  }

  toString(encoding, start = 0, end = this.length) { return named(WRITTEN, encoding)(this.subarray(start, end)); }
  toJSON() { return { type: "Buffer", data: Array.from(this) }; }
  equals(other) { return this.length === other.length && this.every((byte, index) => byte === other[index]); }
}

const bytesOf = (value, encoding) => (typeof value === "string" ? named(READ, encoding)(value) : value);

/** Returns what `crypto` has more. `make`: Node's own module; null where no function's code asks for hashes. */
function nodeCrypto(make) {
  const { getRandomValues } = Crypto.prototype;
  const { crypto } = globalThis;

  class Hash {
    #own;
    constructor(kind, algorithm, key) {
      if (make === null) throw new Error("write createHash or createHmac by its name, so that it is there");
      this.#own = tried(() => (kind === "hmac" ? make.createHmac(String(algorithm), bytesOf(key)) : make.createHash(String(algorithm))));
    }
    update(data, encoding) {
      tried(() => this.#own.update(bytesOf(data, encoding)));
      return this;
    }
    digest(encoding) {
      const made = Buffer.from(tried(() => this.#own.digest()));
      return encoding === undefined ? made : made.toString(encoding);
    }
  }
  Object.freeze(Hash.prototype);
  Object.freeze(Hash);
  const tried = (work) => {
    try {
      return work();
    } catch (error) {
      throw new Error(String(error.message)); // its own class leads into the engine
    }
  };
  const randomBytes = (size) => {
    if (!Number.isInteger(size) || size < 0 || size > MOST_RANDOM_BYTES) throw new RangeError(`at most ${MOST_RANDOM_BYTES} bytes`);
    return Reflect.apply(getRandomValues, crypto, [new Buffer(size)]);
  };
  return {
    createHash: (algorithm) => new Hash("hash", algorithm),
    createHmac: (algorithm, key) => new Hash("hmac", algorithm, key),
    randomBytes,
    timingSafeEqual: (one, other) => Buffer.from(one).equals(Buffer.from(other)),
  };
}

const HASHES = /createH(?:ash|mac)|@rs\/hash/;

/** Returns the globals for functions with these codes. Node's module for hashes takes its time to load, so only some get it. */
async function nodeGlobals(codes) {
  const crypto = nodeCrypto(codes.some((code) => HASHES.test(code)) ? await import("node:crypto") : null);
  for (const [name, value] of Object.entries(crypto)) Object.defineProperty(globalThis.crypto, name, { value, enumerable: true });
  const web = globalThis.crypto;
  const { randomUUID, getRandomValues } = Crypto.prototype; // to be called without their object, as there
  const module = Object.freeze({ ...crypto, subtle: web.subtle, webcrypto: web, randomUUID: randomUUID.bind(web), getRandomValues: getRandomValues.bind(web),
    randomFillSync: getRandomValues.bind(web) });
  const performance = { now: globalThis.performance.now.bind(globalThis.performance), timeOrigin: globalThis.performance.timeOrigin };
  const require = (name) => {
    const plain = String(name).replace(/^node:/, "");
    if (plain === "crypto") return module;
    if (plain === "buffer") return { Buffer };
    if (plain === "penstock" || plain === "@jitsu/functions-lib") return globalThis.penstock;
    throw new Error(`"${plain.slice(0, 100)}" cannot be required: ${ONE_FILE}`);
  };
  return { Buffer, performance: Object.freeze(performance), require, global: globalThis };
}

/** Where the code of libraries belongs. */
export const ONE_FILE = "a function is one file; put the library's own code into it";

export const node = once(nodeGlobals);
