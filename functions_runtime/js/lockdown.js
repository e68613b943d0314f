// What code of users finds of the world: the language, and a few helpers without side effects.
// The language's own objects are frozen, so that one event cannot change what the next one sees.

const KEPT = new Set([
  "Object", "Function", "Array", "Number", "parseFloat", "parseInt", "Infinity", "NaN", "undefined", "Boolean", "String", "Symbol",
  "Date", "Promise", "RegExp", "Error", "AggregateError", "EvalError", "RangeError", "ReferenceError", "SyntaxError", "TypeError",
  "URIError", "SuppressedError", "globalThis", "JSON", "Math", "Intl", "ArrayBuffer", "Uint8Array", "Int8Array", "Uint16Array",
  "Int16Array", "Uint32Array", "Int32Array", "BigUint64Array", "BigInt64Array", "Uint8ClampedArray", "Float16Array", "Float32Array",
  "Float64Array", "DataView", "Map", "BigInt", "Set", "Iterator", "WeakMap", "WeakSet", "WeakRef", "Proxy",
  "Reflect", "decodeURI", "decodeURIComponent", "encodeURI", "encodeURIComponent", "escape", "unescape", "isFinite", "isNaN",
  "Temporal", "structuredClone", "atob", "btoa", "TextEncoder", "TextDecoder", "URL", "URLSearchParams", "Headers",
  "AbortController", "AbortSignal", "DOMException", "Event", "EventTarget", "crypto", "Crypto", "SubtleCrypto",
  "CryptoKey", "eval", "DisposableStack", "AsyncDisposableStack",
]);


const { defineProperty, freeze, getOwnPropertyDescriptor, getPrototypeOf, hasOwn, preventExtensions } = Object;
const { apply, ownKeys } = Reflect;

/** Takes away every global that is not kept, then adds those of `more`. */
export function reduceGlobals(more) {
  for (const name of ownKeys(globalThis)) {
    if (typeof name !== "string" || KEPT.has(name)) continue;
    if (!Reflect.deleteProperty(globalThis, name)) {
      const held = getOwnPropertyDescriptor(globalThis, name);
      if (held.writable) globalThis[name] = undefined;
      else if (held.value !== undefined || held.get) throw new Error(`the global ${name} cannot be taken away`);
    }
  }
  // some are made when they are first asked for: from now on they are what they are
  for (const name of KEPT) {
    if (getOwnPropertyDescriptor(globalThis, name)?.get) defineProperty(globalThis, name, { value: globalThis[name], writable: true });
  }
  // on the prototypes of the global object there is what a browser or Deno adds beside
  for (let proto = getPrototypeOf(globalThis); proto && proto !== Object.prototype; proto = getPrototypeOf(proto)) {
    if (proto === EventTarget.prototype) continue; // signals need it, and the listeners of the global object are frozen with it
    for (const name of ownKeys(proto)) if (name !== "constructor") Reflect.deleteProperty(proto, name);
  }
  delete URL.createObjectURL;
  delete URL.revokeObjectURL;
  for (const [name, value] of Object.entries(more)) {
    defineProperty(globalThis, name, { value, writable: false, enumerable: false, configurable: false });
  }
}

// Assigning to an object what its frozen prototype holds is an error in the language. So what was writable becomes an accessor that lets
// the object get a property of its own, as it would with a prototype that is not frozen. Namespaces like `Math` are no prototypes.
const NAMESPACES = new Set([JSON, Math, Reflect, Intl]);

function soften(holder, name, { value: held, enumerable }) {
  const value = held; // as a constant, so that the engine sees through the getter
  const accessor = {
    get: () => value,
    set(given) {
      if (this === holder) throw new TypeError(`Cannot assign to read only property '${String(name)}' of the language`);
      if (hasOwn(this, name)) this[name] = given; // by way of Reflect.set
      else defineProperty(this, name, { value: given, writable: true, enumerable: true, configurable: true });
    },
  };
  defineProperty(holder, name, { get: accessor.get, set: accessor.set, enumerable, configurable: false });
}

const { toString: nameAndMessage } = Error.prototype;

/** Makes stack traces tell of the functions' own code only, not of ours and where it is. */
function hideOurFrames() {
  Error.prepareStackTrace = (error, frames) => {
    let text = "Error";
    try {
      text = String(apply(nameAndMessage, error, []));
    } catch {
      // its name or message is code of users, and fails
    }
    for (let i = 0; i < frames.length; i++) if (frames[i].getFileName()?.startsWith("blob:")) text += `\n    at ${frames[i]}`;
    return text;
  };
}

/** Freezes everything that can be reached from the global object. */
export function freezeWorld() {
  hideOurFrames();
  const seen = new Set();
  const waiting = [globalThis];
  // objects that only syntax reaches
  waiting.push((async () => {}).constructor, (function* () {}).constructor, (async function* () {}).constructor);
  waiting.push(getPrototypeOf([][Symbol.iterator]()), getPrototypeOf(""[Symbol.iterator]()), getPrototypeOf(new Map()[Symbol.iterator]()));
  waiting.push(getPrototypeOf(new Set()[Symbol.iterator]()), getPrototypeOf(/a/[Symbol.matchAll]("a")), getPrototypeOf(Uint8Array));
  waiting.push([].values().map(String), Iterator.from({ next: String }), new Headers().entries(), new URLSearchParams().entries());
  const segments = new Intl.Segmenter().segment("");
  waiting.push(getPrototypeOf(segments), getPrototypeOf(segments[Symbol.iterator]()));
  while (waiting.length) {
    const object = waiting.pop();
    if (object === null || (typeof object !== "object" && typeof object !== "function") || seen.has(object)) continue;
    seen.add(object);
    waiting.push(getPrototypeOf(object));
    for (const name of ownKeys(object)) {
      const held = getOwnPropertyDescriptor(object, name);
      if (held === undefined) continue;
      if ("value" in held) waiting.push(held.value);
      else waiting.push(held.get, held.set);
    }
  }
  seen.delete(globalThis);
  for (const object of seen) {
    if (!NAMESPACES.has(object)) {
      for (const name of ownKeys(object)) {
        const held = getOwnPropertyDescriptor(object, name);
        // the engine reads the limit of stack traces itself, and takes no accessor
        if (held.writable && held.configurable && name !== "stackTraceLimit") soften(object, name, held);
      }
    }
    try {
      freeze(object);
    } catch {
      // views of memory cannot be frozen; nothing of the language is one
    }
  }
  fixGlobals();
}

function fixGlobals() {
  for (const name of ownKeys(globalThis)) {
    const held = getOwnPropertyDescriptor(globalThis, name);
    if (held.configurable) defineProperty(globalThis, name, "value" in held ? { writable: false, configurable: false } : { configurable: false });
  }
}

/** Lets the global object get no more names: names that libraries made while they were loaded stay as they are. */
export function sealGlobals() {
  fixGlobals();
  preventExtensions(globalThis);
}
