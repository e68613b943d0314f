// `ctx` of one event: what a function may ask and do. Everything that has an effect goes through the host.

import { Response } from "./response.js";

const LOG_CHARACTERS = 1000;
const MOST_LOGS = 100;
const MOST_CALLS = 1000;

const { stringify, parse } = JSON;
const { from } = Array;

const shown = (_key, value) => {
  if (typeof value === "bigint") return `${value}n`;
  if (value instanceof Error) return `${value.name}: ${value.message}`;
  return value instanceof Map || value instanceof Set ? [...value] : value;
};

/** Returns the text of a value, also if the value's own code throws. */
export const show = (value) => {
  try {
    if (typeof value === "string") return value;
    if (value instanceof Error) return `${value.name}: ${value.message}`;
    return stringify(value, shown) ?? String(value);
  } catch {
    return typeof value === "object" ? "an object without text" : `a ${typeof value}`;
  }
};

/** Does some work until a signal ends it. */
function until(signal, work) {
  if (signal === undefined || signal === null) return work();
  signal.throwIfAborted();
  return new Promise((resolve, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
    work().then(resolve, reject);
  });
}

/** Makes what gives functions their `ctx`: {contextOf(event), logOf(event), fetchOf(event)}.
 * shared: {site, source, destination, connection, props} of the connection; call(event, op, args): asks the host; log(event, level, text). */
export function contexts(shared, { call, log }) {
  const say = (event, level, values) => {
    if (++event.logs > MOST_LOGS) return;
    log(event, level, from(values, show).join(" ").slice(0, LOG_CHARACTERS));
  };
  const ask = (event, op, args) => {
    if (event.ended) return Promise.reject(new Error("the function's time for this event is over"));
    if (++event.calls > MOST_CALLS) return Promise.reject(new Error(`more than ${MOST_CALLS} calls for one event`));
    return call(event, op, args);
  };
  const logOf = (event) => ({
    debug: (...values) => say(event, "debug", values),
    info: (...values) => say(event, "info", values),
    log: (...values) => say(event, "info", values),
    warn: (...values) => say(event, "warn", values),
    error: (...values) => say(event, "error", values),
  });
  const storeOf = (event) => ({
    get: (key) => ask(event, "get", [key]),
    set: (key, value, options) => ask(event, "set", [key, value, options]),
    del: (key) => ask(event, "del", [key]),
    ttl: (key) => ask(event, "ttl", [key]),
    getWithTTL: (key) => ask(event, "getWithTTL", [key]),
    async getOrSet(key, value, options) {
      const found = await ask(event, "get", [key]);
      if (found !== null && found !== undefined) return found;
      return ask(event, "add", [key, typeof value === "function" ? await value() : value, options]);
    },
    async update(key, change, options) {
      if (typeof change !== "function") throw new TypeError("store.update: expected a function that returns the new value");
      for (;;) {
        const { value, revision } = await ask(event, "read", [key]);
        const made = await change(value);
        if (made === undefined) return value;
        if (await ask(event, "swap", [key, made, options, revision])) return made; // else another event was faster
      }
    },
  });
  const fetchOf = (event) => async (url, options = {}) => {
    let { body } = options;
    let kind = null;
    if (typeof body === "string") kind = "text/plain;charset=UTF-8";
    else if (body instanceof URLSearchParams) [body, kind] = [String(body), "application/x-www-form-urlencoded;charset=UTF-8"];
    else if (body instanceof ArrayBuffer) body = { base64: new Uint8Array(body).toBase64() };
    else if (ArrayBuffer.isView(body)) body = { base64: new Uint8Array(body.buffer, body.byteOffset, body.byteLength).toBase64() };
    else if (body !== undefined && body !== null) [body, kind] = [stringify(body), "application/json"];
    const given = new Headers(options.headers ?? []);
    if (kind !== null && !given.has("content-type")) given.set("content-type", kind);
    const headers = [...given];
    const request = { url: String(url), method: options.method, headers, body, timeout: options.timeout, redirect: options.redirect };
    const { status, statusText, headers: heard, base64, url: final, redirected } = await until(options.signal, () => ask(event, "fetch", [request]));
    return new Response(Uint8Array.fromBase64(base64), { status, statusText, headers: heard, url: final, redirected });
  };
  const { site, source, destination, connection, props } = shared;
  // a plain object, because functions take it apart: `{log, ...rest}`; members made when they are asked for would cost ten times as much
  const contextOf = (event) => {
    const { geo, ua, headers, receivedAt } = event.request;
    return {
      log: logOf(event), store: storeOf(event), fetch: fetchOf(event), geo, ua, headers, receivedAt: new Date(receivedAt), retries: event.retries,
      site, source, destination, connection, props,
    };
  };
  return { contextOf, logOf, fetchOf };
}

/** Freezes plain data all the way down. */
export function deepFreeze(value) {
  if (value !== null && typeof value === "object" && !Object.isFrozen(value)) {
    Object.freeze(value);
    for (const part of Object.values(value)) deepFreeze(part);
  }
  return value;
}

// A double cannot hold every number of JSON. The text of such a number is noted when an event is read, and written again where its key
// still has its value.
// Looked for only where a value begins: the digits of most ids look like such a number.
const INEXACT = /[:,[]\s*-?[0-9](?:[0-9.]{15}|[0-9.]*[eE])/;

/** Returns [event, numbers]; numbers is null for nearly all events. */
export function read(text) {
  if (!INEXACT.test(text)) return [parse(text), null];
  const numbers = new Map();
  const event = parse(text, (key, value, { source }) => {
    if (typeof value === "number" && source !== String(value)) numbers.set(`${key}\0${value}`, source);
    return value;
  });
  return [event, numbers.size ? numbers : null];
}

const { rawJSON } = JSON;

/** Returns the JSON of an event. */
export function write(event, numbers) {
  if (numbers === null) return stringify(event);
  return stringify(event, (key, value) => {
    const source = typeof value === "number" ? numbers.get(`${key}\0${value}`) : undefined;
    return source === undefined ? value : rawJSON(source);
  });
}
