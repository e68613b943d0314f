// What functions may use beside the language: `import { RetryError, hash } from "penstock"`, or the same names as globals.

/** Deliver now and run the functions again later; with `{drop: true}` deliver nothing now. */
export class RetryError extends Error {
  constructor(message, options) {
    super(message);
    this.name = options?.drop ? "DropRetryError" : "RetryError";
    this.drop = options?.drop === true;
  }
}

/** The event is a dead letter. */
export class NoRetryError extends Error {
  constructor(message) {
    super(message);
    this.name = "NoRetryError";
  }
}

const named = (name, base = Error) => ({ [name]: class extends base { constructor(message) { super(message); this.name = name; } } })[name];

// the words of Segment's functions
export const EventNotSupported = named("EventNotSupported");
export const InvalidEventPayload = named("InvalidEventPayload");
export const ValidationError = named("ValidationError");
export const DropEvent = named("DropEvent");

/** The key of an event that names its table. */
export const TableNameParameter = "JITSU_TABLE_NAME";

/** Returns a name in snake case: `Order Completed` and `orderCompleted` are `order_completed`. */
export function toSnakeCase(name) {
  return String(name)
    .replace(/([a-z0-9])([A-Z])/g, "$1_$2")
    .replace(/([A-Z]+)([A-Z][a-z])/g, "$1_$2")
    .replace(/[^\p{L}\p{N}]+/gu, "_")
    .replace(/^_+|_+$/g, "")
    .toLowerCase();
}

const { subtle } = crypto;
const encoder = new TextEncoder();
const hex = (buffer) => Array.from(new Uint8Array(buffer), (byte) => byte.toString(16).padStart(2, "0")).join("");
const digest = (algorithm) => async (value) => hex(await subtle.digest(algorithm, typeof value === "string" ? encoder.encode(value) : value));

/** Hashes of text or bytes, as promises of hexadecimal text. */
export const hash = { sha1: digest("SHA-1"), sha256: digest("SHA-256"), sha512: digest("SHA-512") };
