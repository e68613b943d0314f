// Types of what Penstock's functions get and may return. Editors read this file; nothing else does.

/** A JSON value. */
type Json = string | number | boolean | null | Json[] | { [key: string]: Json };

/** An event in Segment's shape, with everything that the server knows of it. Further keys are what the client sent. */
interface PenstockEvent {
  type: "track" | "page" | "screen" | "identify" | "group" | "alias" | (string & {});
  messageId: string;
  event?: string;
  userId?: string;
  anonymousId?: string;
  groupId?: string;
  previousId?: string;
  timestamp?: string;
  originalTimestamp?: string;
  sentAt?: string;
  receivedAt?: string;
  properties?: Record<string, any>;
  traits?: Record<string, any>;
  context?: Record<string, any>;
  /** Names the table, in place of the layout. */
  JITSU_TABLE_NAME?: string;
  [key: string]: any;
}

/** How long a value is kept: seconds, `"1d"`, `{ttl}`, or `"inf"`; 31 days if not said. */
type Ttl = number | string | { ttl: number | string };

interface PenstockStore {
  get(key: string): Promise<any>;
  set(key: string, value: Json, options?: Ttl): Promise<void>;
  del(key: string): Promise<void>;
  /** Seconds left; -1: for ever; -2: there is no such key. */
  ttl(key: string): Promise<number>;
  getWithTTL(key: string): Promise<{ value: any; ttl: number } | null>;
  /** Returns what is kept, or keeps what is given and returns that; the same for all who ask at once. */
  getOrSet(key: string, value: Json | (() => Json | Promise<Json>), options?: Ttl): Promise<any>;
  /**
   * Keeps what `change` makes of the value that is kept (`null`: there is none), and returns it. If another event writes meanwhile,
   * `change` is called again with what that wrote, so that nothing is lost. `undefined` leaves the value as it is.
   */
  update(key: string, change: (value: any) => Json | undefined | Promise<Json | undefined>, options?: Ttl): Promise<any>;
}

/** What a request may say. */
interface PenstockRequest {
  method?: string;
  headers?: HeadersInit;
  /** Text, bytes or `URLSearchParams`; other values are sent as JSON. */
  body?: unknown;
  timeout?: number;
  redirect?: "follow" | "manual" | "error";
  signal?: AbortSignal | null;
}

interface PenstockContext {
  log: Record<"debug" | "info" | "log" | "warn" | "error", (...values: unknown[]) => void>;
  /** As the platform's `fetch`, to the internet only; `timeout` in milliseconds, 2000 if not said. */
  fetch(url: string | URL, options?: PenstockRequest): Promise<Response>;
  store: PenstockStore;
  /** Values of the connection's `functions_env`. */
  props: Record<string, string | number | boolean | null>;
  geo: Record<string, any>;
  ua: Record<string, string>;
  headers: Record<string, string>;
  receivedAt: Date;
  /** How often the event was tried before. */
  retries: number;
  site: { id: string; name: string };
  source: { id: string; name: string };
  destination: { id: string; type: string };
  connection: { id: string; mode: string; options: Record<string, any> };
}

/** What a function returns: nothing, the event goes on as it came; an event, or several from the last function; or it is dropped. */
type PenstockResult = PenstockEvent | PenstockEvent[] | null | undefined | void | false | "drop";

/** What a function may say of itself. `delays`: minutes before each try again. */
interface PenstockConfig {
  slug?: string;
  name?: string;
  description?: string;
  retryPolicy?: { retries?: number; delays?: number[] };
}

/** Deliver now and run the functions again later; with `{drop: true}` deliver nothing now. */
declare class RetryError extends Error {
  constructor(message?: string, options?: { drop?: boolean });
  readonly drop: boolean;
}
/** The event is a dead letter. */
declare class NoRetryError extends Error {}
declare const TableNameParameter: "JITSU_TABLE_NAME";
/** `Order Completed` and `orderCompleted` become `order_completed`. */
declare function toSnakeCase(name: string): string;
/** Hexadecimal text. */
declare const hash: Record<"sha1" | "sha256" | "sha512", (value: string | BufferSource) => Promise<string>>;

// Of Segment's functions. The first two drop the event, the others make a dead letter.
declare class DropEvent extends Error {}
declare class EventNotSupported extends Error {}
declare class ValidationError extends Error {}
declare class InvalidEventPayload extends Error {}
/** Values that live as long as the sandbox does. `milliseconds` may be left out. */
declare const cache: {
  load<T>(key: string, milliseconds: number, make: () => T | Promise<T>): Promise<T>;
  load<T>(key: string, make: () => T | Promise<T>): Promise<T>;
  delete(key: string): void;
};

// Of RudderStack's transformations.
type RudderMetadata = (event: Partial<PenstockEvent>) => {
  sourceId?: string;
  sourceName?: string;
  sourceType?: string;
  sourceCategory: string;
  workspaceId?: string;
  namespace?: string;
  destinationId?: string;
  destinationName?: string;
  destinationType?: string;
  connectionId?: string;
  mode: string;
  messageId?: string;
  rudderId?: string;
  sourceEventId?: string;
  receivedAt?: string;
  eventName?: string;
  eventType?: string;
};
declare function log(...values: unknown[]): void;
/** A value of `functions_env`. */
declare function getCredential(name: string): string | number | boolean | null | undefined;
declare function fetchV2(
  url: string | URL,
  options?: PenstockRequest,
): Promise<{ url: string; status: number; headers: Record<string, string>; body: any }>;

// What there is of Node, beside `Buffer`, whose types come with `@types/node`.
interface PenstockHash {
  update(data: string | BufferSource, encoding?: string): PenstockHash;
  digest(): Uint8Array;
  digest(encoding: "hex" | "base64" | "base64url" | "latin1" | "utf8"): string;
}
interface Crypto {
  createHash(algorithm: string): PenstockHash;
  createHmac(algorithm: string, key: string | BufferSource): PenstockHash;
  randomBytes(size: number): Uint8Array;
  timingSafeEqual(one: BufferSource, other: BufferSource): boolean;
}

declare module "penstock" {
  export class RetryError extends Error {
    constructor(message?: string, options?: { drop?: boolean });
    readonly drop: boolean;
  }
  export class NoRetryError extends Error {}
  export class DropEvent extends Error {}
  export class EventNotSupported extends Error {}
  export class ValidationError extends Error {}
  export class InvalidEventPayload extends Error {}
  export const TableNameParameter: "JITSU_TABLE_NAME";
  export function toSnakeCase(name: string): string;
  export const hash: Record<"sha1" | "sha256" | "sha512", (value: string | BufferSource) => Promise<string>>;
}
declare module "@jitsu/functions-lib" {
  export * from "penstock";
}
declare module "@jitsu/protocols/functions" {
  export type FullContext = PenstockContext;
  export type JitsuFunction = (event: PenstockEvent, ctx: PenstockContext) => PenstockResult | Promise<PenstockResult>;
}
declare module "@rs/hash/v1" {
  export const md5: (text: string) => string;
  export const sha1: (text: string) => string;
  export const sha256: (text: string) => string;
  export const sha512: (text: string) => string;
}
