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
}

interface PenstockContext {
  log: Record<"debug" | "info" | "log" | "warn" | "error", (...values: unknown[]) => void>;
  /** As the platform's `fetch`, to the internet only; `timeout` in milliseconds, 2000 if not said. */
  fetch(
    url: string,
    options?: { method?: string; headers?: HeadersInit; body?: unknown; timeout?: number; redirect?: "follow" | "manual" | "error" },
  ): Promise<Response>;
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
}
/** The event is a dead letter. */
declare class NoRetryError extends Error {
  constructor(message?: string);
}
declare const TableNameParameter: "JITSU_TABLE_NAME";
declare function toSnakeCase(name: string): string;
declare const hash: Record<"sha1" | "sha256" | "sha512", (value: string | Uint8Array) => Promise<string>>;

declare module "penstock" {
  export class RetryError extends Error {
    constructor(message?: string, options?: { drop?: boolean });
  }
  export class NoRetryError extends Error {
    constructor(message?: string);
  }
  export const TableNameParameter: "JITSU_TABLE_NAME";
  export function toSnakeCase(name: string): string;
  export const hash: Record<"sha1" | "sha256" | "sha512", (value: string | Uint8Array) => Promise<string>>;
}
declare module "@jitsu/functions-lib" {
  export * from "penstock";
}
