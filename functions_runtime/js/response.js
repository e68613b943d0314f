// `Response`: what `fetch` answers. The platform's own one leads to the streams and resources of the engine, so this one holds bytes.

const encoder = new TextEncoder();
const decoder = new TextDecoder();
const WITHOUT_BODY = [101, 204, 205, 304];

function bytesOf(body) {
  if (body === null || body === undefined) return new Uint8Array();
  if (body instanceof ArrayBuffer) return new Uint8Array(body.slice(0));
  if (ArrayBuffer.isView(body)) return new Uint8Array(body.buffer, body.byteOffset, body.byteLength).slice();
  return encoder.encode(String(body));
}

export class Response {
  #bytes;
  #used = false;
  #given;

  /** body: text, bytes or null; given: {status, statusText, headers}, and of an answer {url, redirected}. */
  constructor(body = null, { status = 200, statusText = "", headers, url = "", redirected = false } = {}) {
    if (!Number.isInteger(status) || status < 101 || status > 599) throw new RangeError(`there is no status ${status}`);
    this.#bytes = WITHOUT_BODY.includes(status) ? new Uint8Array() : bytesOf(body);
    this.#given = { status, statusText: String(statusText), headers: new Headers(headers), url: String(url), redirected: redirected === true };
  }

  static json(value, given) {
    const made = new Response(JSON.stringify(value), given);
    if (!made.headers.has("content-type")) made.headers.set("content-type", "application/json");
    return made;
  }

  get status() { return this.#given.status; }
  get statusText() { return this.#given.statusText; }
  get ok() { return this.status >= 200 && this.status <= 299; }
  get headers() { return this.#given.headers; }
  get url() { return this.#given.url; }
  get redirected() { return this.#given.redirected; }
  get type() { return "default"; }
  get bodyUsed() { return this.#used; }

  async bytes() {
    if (this.#used) throw new TypeError("the body was read before");
    this.#used = true;
    return this.#bytes;
  }

  async arrayBuffer() { return (await this.bytes()).buffer; }
  async text() { return decoder.decode(await this.bytes()); }
  async json() { return JSON.parse(await this.text()); }

  clone() {
    if (this.#used) throw new TypeError("the body was read before");
    return new Response(this.#bytes, this.#given);
  }
}
