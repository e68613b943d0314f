/** Types of Penstock's browser script: `import { load } from "@penstock/browser"`, or from `/p.mjs` of an edge. */

export type Value = string | number | boolean | null | Value[] | { [key: string]: Value | undefined }
export type Properties = { [key: string]: unknown }

export interface Event {
  type: string
  messageId: string
  timestamp: string
  anonymousId: string
  userId?: string
  event?: string
  name?: string
  category?: string
  groupId?: string
  previousId?: string
  properties?: Properties
  traits?: Properties
  context: Properties
  integrations?: Properties
}

export interface CallOptions {
  context?: Properties
  integrations?: { [name: string]: boolean | Properties }
  timestamp?: string | Date
  anonymousId?: string
  userId?: string
  messageId?: string
}

export interface Options {
  /** Where the edge is: `https://events.example.com`, or with the site's own path. */
  host: string
  /** The write key of the site. */
  key: string
  /** `true`: send. `"wait"`: hold events until `consent()`. Categories: send, with these. Default `true`. */
  consent?: boolean | "wait" | { [category: string]: boolean }
  /** How batches travel. Default `"fetch"`. */
  transport?: "fetch" | "websocket"
  /** Milliseconds that a batch waits for more events. Default 200. */
  flushAfter?: number
  /** false: no cookie, the anonymous id is in localStorage only. */
  cookie?: boolean
  /** Domain of the cookie; default the widest that the browser takes. */
  cookieDomain?: string
  /** Default 365. */
  cookieDays?: number
  /** Nonce of a strict Content-Security-Policy, for device destinations. */
  nonce?: string
  /** Merged into the context of every event. */
  defaultContext?: Properties
  /** The `integrations` of every event. */
  integrations?: { [name: string]: boolean | Properties }
  /** The settings document, if the page has it already; the script then asks for none. */
  settings?: object
  debug?: boolean
}

/** Elements of the page, as `querySelectorAll` and arrays hold them. */
export type Elements = Element | Iterable<Element> | NodeListOf<Element> | HTMLCollectionOf<Element>

export type Callback = (event: Event) => void

export interface Analytics {
  readonly VERSION: string
  page(name?: string, properties?: Properties, options?: CallOptions, callback?: Callback): Promise<Event>
  page(category: string, name: string, properties?: Properties, options?: CallOptions, callback?: Callback): Promise<Event>
  page(properties: Properties, options?: CallOptions, callback?: Callback): Promise<Event>
  screen(name?: string, properties?: Properties, options?: CallOptions, callback?: Callback): Promise<Event>
  track(event: string, properties?: Properties, options?: CallOptions, callback?: Callback): Promise<Event>
  identify(userId?: string | number | null, traits?: Properties, options?: CallOptions, callback?: Callback): Promise<Event>
  identify(traits: Properties, options?: CallOptions, callback?: Callback): Promise<Event>
  group(groupId: string | number, traits?: Properties, options?: CallOptions, callback?: Callback): Promise<Event>
  alias(to: string | number, from?: string | number, options?: CallOptions, callback?: Callback): Promise<Event>
  trackLink(elements: Elements, event: string | ((element: Element) => string), properties?: Properties): Analytics
  trackForm(elements: Elements, event: string | ((element: Element) => string), properties?: Properties): Analytics
  /** Forgets the user and starts a new anonymous visitor. */
  reset(): void
  /** When the settings and the device destinations are there; at once while consent waits. */
  ready(): Promise<void>
  ready<T>(done: () => T): Promise<T>
  consent(given: boolean | { [category: string]: boolean }): Analytics
  user(): { id(): string | null; traits(): Properties; anonymousId(id?: string): string }
  setAnonymousId(id: string): Analytics
  addSourceMiddleware(
    middleware: (call: { payload: { obj: Event; type(): string }; next(event: Event | null | undefined): void }) => void,
  ): Analytics
  on(type: string, listener: (...words: any[]) => void): Analytics
  off(type: string, listener: (...words: any[]) => void): Analytics
  debug(on?: boolean): Analytics
  /** Resolves once the server has everything. */
  flush(): Promise<void>
  /** Number of events that the server does not have yet. */
  waiting(): number
}

export function load(options: Options): Analytics
export const VERSION: string
