// The guest's side of a sandbox: one chain of functions of one connection, events in, results out.

import { AsyncLocalStorage } from "node:async_hooks";
import { contexts, deepFreeze, read, show, write } from "./context.js";
import { loader } from "./functions.js";
import * as library from "./library.js";
import { freezeWorld, reduceGlobals, sealGlobals } from "./lockdown.js";
import { node, ONE_FILE } from "./node.js";
import { Response } from "./response.js";
import { vendors } from "./vendors.js";
import { timers } from "./timers.js";
import { wire } from "./wire.js";

const { bytes, exit, frames, send, text } = wire();
const load = loader();
const nodeGlobals = node();

const IN = { load: 1, batch: 2, answer: 3 };
const OUT = { loaded: 1, results: 2, call: 3, started: 4, alive: 5 };
const SAME = 0, OUTPUTS = 1, DROPPED = 2, DEAD = 3;

const FLUSH_BYTES = 256 * 1024;
const FLUSH_MS = 100;
const ALIVE_MS = 250;
const AT_ONCE = 20; // events that may wait for something at the same time
const MOST_CALL_CHARACTERS = 8 * 1024 * 1024; // that one event gives to its calls
const DETAIL_CHARACTERS = 500;

const now = performance.now.bind(performance);
const { setInterval: every, clearInterval: clearEvery } = globalThis;
const { isArray } = Array;
const { parse, stringify } = JSON;
const current = new AsyncLocalStorage();
const waiting = timers()(() => current.getStore());

if (!Uint8Array.fromBase64 || !JSON.rawJSON) throw new Error("this Deno is too old");

let nonce = "";
let chain = [];
let settings = {};
let Context;
const asked = new Map(); // calls that the host has not answered, by number
let calls = 0;

class Batch {
  constructor(header, body) {
    this.id = header.id;
    this.careful = header.careful;
    this.wallMs = settings.wallMs;
    // its first function takes many events: they wait for each other there, also those of one user
    this.many = chain[0]?.many;
    this.requests = header.requests.map(deepFreeze);
    this.events = header.events;
    this.body = body;
    this.at = 0;
    this.starting = null;
    this.running = new Set();
    this.busy = new Set(); // users with an event that waits
    this.results = [];
    this.bodies = [];
    this.logs = [];
    this.held = 0;
    this.flushed = now();
  }

  flush() {
    if (this.results.length || this.logs.length) {
      send(OUT.results, { nonce, batch: this.id, results: this.results, logs: this.logs }, this.bodies);
      this.results = [];
      this.bodies = [];
      this.logs = [];
      this.held = 0;
    }
    this.flushed = now();
  }

  async run() {
    const beat = every(() => {
      if (this.starting) this.suspend(this.starting); // it waits for something that we do not see
      this.expire();
      send(OUT.alive, { nonce, batch: this.id });
    }, ALIVE_MS);
    const most = this.careful ? 1 : this.many ?? AT_ONCE;
    for (const [index, size, request, user, retries] of this.events) {
      const source = this.body.subarray(this.at, this.at += size);
      while (this.running.size >= most || (this.many === undefined && this.busy.has(user))) await Promise.race(Array.from(this.running, (event) => event.done));
      if (this.careful) this.flush(); // the host knows all before this event
      await this.start({
        index, user, source, request: this.requests[request], retries, logs: 0, calls: 0, asked: 0, ended: false, batch: this,
        turn: null, rudder: false, done: null, over: null, since: 0, timers: null, logger: null, store: null, fetcher: null,
      });
      if (this.held > FLUSH_BYTES || now() - this.flushed > FLUSH_MS) this.flush();
    }
    while (this.running.size) await Promise.race(Array.from(this.running, (event) => event.done));
    clearEvery(beat);
    this.flush();
  }

  /** Returns when the event is at its end, or waits for something. */
  async start(event) {
    if (this.careful) send(OUT.started, { nonce, batch: this.id, index: event.index });
    // one promise an event: most never wait
    const turn = new Promise((resolve) => event.turn = resolve);
    this.starting = event;
    current.run(event, apply, event).then(
      (result) => this.finish(event, result),
      (error) => this.finish(event, [DEAD, "function_failed", detail(error), "", [], null]), // our own code met what it does not know
    );
    await turn;
    this.starting = null;
  }

  /** Lets the next events go on beside an event that waits. */
  suspend(event) {
    if (event.ended || this.running.has(event)) return;
    event.done = new Promise((resolve) => event.over = resolve);
    event.since = now();
    this.running.add(event);
    this.busy.add(event.user);
    event.turn();
  }

  finish(event, [kind, outputs, detail, name, errors, retry]) {
    if (event.ended) return; // its time was over before
    event.ended = true;
    if (event.timers !== null) waiting.end(event);
    if (event.calls) for (const [number, call] of asked) if (call.event === event) asked.delete(number); // it hears of nothing more
    let sizes = outputs;
    if (kind === OUTPUTS) {
      sizes = [];
      for (let i = 0; i < outputs.length; i++) {
        const part = bytes(outputs[i]);
        this.held += part.length;
        this.bodies.push(part);
        sizes.push(part.length);
      }
    }
    this.results.push([event.index, kind, sizes, detail, name, errors, retry]);
    if (event.over === null) return event.turn();
    this.running.delete(event);
    this.busy.delete(event.user);
    event.over();
  }

  expire() {
    const limit = now() - settings.wallMs;
    for (const event of this.running) {
      if (event.since < limit) this.finish(event, [DEAD, "function_timeout", `no answer within ${settings.wallMs / 1000} s`, "", [], null]);
    }
  }
}

/** Returns a member of what a function threw. Its getters are code of users, and may throw or give anything. */
const member = (error, name) => {
  try {
    return error instanceof Error ? error[name] : undefined;
  } catch {
    return undefined;
  }
};

const detail = (error) => {
  const stack = member(error, "stack");
  const place = typeof stack === "string" ? stack.match(/blob:null\/[0-9a-f-]+:(\d+):(\d+)/) : null;
  return (show(error) + (place ? ` (line ${place[1]}, column ${place[2]})` : "")).slice(0, DETAIL_CHARACTERS);
};

/** Runs the chain; returns [kind, outputs | function | reason, detail, function, errors, retry]. */
async function apply(event) {
  const context = new Context(event);
  const errors = [];
  let retry = null;
  let written = text(event.source);
  let [value, numbers] = read(written);
  let same = true;
  for (let number = 0; number < chain.length; number++) {
    const { name, call, form } = chain[number];
    const last = number === chain.length - 1;
    let made;
    try {
      let result = call(value, context);
      if (result !== null && typeof result === "object" && typeof result.then === "function") result = await result;
      if (isArray(result) && result.length === 1) result = result[0];
      const drops = result === null || result === false || result === "drop" || (isArray(result) && !result.length)
        || (result === undefined && form !== "penstock");
      if (drops) return [DROPPED, name, "", name, errors, retry];
      if (isArray(result)) {
        if (!last) return [DEAD, "function_result", "only the last function of a chain may return more than one event", name, errors, retry];
        if (result.length > settings.mostOutputs) return tooMuch(result.length, 0, name, errors, retry);
        const all = [];
        for (let i = 0; i < result.length; i++) all.push(checked(result[i], numbers)); // its own `map` is code of users
        made = all;
      } else if (result !== undefined) {
        made = [checked(result, numbers)];
        value = result;
      }
    } catch (error) {
      const kind = member(error, "name");
      if (kind === "DropRetryError" || (kind === "RetryError" && member(error, "drop"))) {
        return [DROPPED, name, "", name, errors, [detail(error), name, true]];
      }
      if (kind === "DropEvent" || kind === "EventNotSupported") return [DROPPED, name, "", name, errors, retry];
      if (kind === "NoRetryError" || kind === "InvalidEventPayload" || kind === "ValidationError") {
        return [DEAD, "function_failed", detail(error), name, errors, retry];
      }
      errors.push([name, detail(error)]);
      if (kind === "RetryError") retry = [detail(error), name, false];
      else if (settings.onError === "dead_letter") return [DEAD, "function_failed", detail(error), name, errors, retry];
      else if (settings.onError === "drop") return [DROPPED, name, "failed", name, errors, retry];
    }
    if (made === undefined) {
      if (!last) [value] = read(written); // without what the function did to its copy
      continue;
    }
    same = false;
    if (last) return within(made, name, errors, retry);
    written = made[0];
  }
  return same ? [SAME, "", "", "", errors, retry] : within([written], "", errors, retry);
}

function checked(value, numbers) {
  const kind = value === null ? "null" : isArray(value) ? "an array" : typeof value;
  if (kind !== "object") throw new TypeError(`returned ${kind}, not an event`);
  const written = write(value, numbers);
  if (typeof written !== "string" || written[0] !== "{") throw new TypeError("returned a value that is no JSON object");
  return written;
}

function within(outputs, name, errors, retry) {
  let size = 0;
  for (const output of outputs) size += output.length;
  if (size > settings.mostBytes) return tooMuch(outputs.length, size, name, errors, retry);
  return [OUTPUTS, outputs, "", name, errors, retry];
}

function tooMuch(amount, size, name, errors, retry) {
  const allowed = `at most ${settings.mostOutputs} events of ${settings.mostBytes} characters are allowed`;
  return [DEAD, "function_result", `${amount} events${size ? ` of ${size} characters` : ""}; ${allowed}`, name, errors, retry];
}

function ask(event, op, args) {
  const { batch } = event;
  let plain;
  try {
    const written = stringify(args);
    event.asked += written.length;
    plain = parse(written); // so that no code of users runs while the frame is written
  } catch (error) {
    return Promise.reject(error);
  }
  if (event.asked > MOST_CALL_CHARACTERS) return Promise.reject(new Error(`the calls of an event hold ${MOST_CALL_CHARACTERS >> 20} Mi characters at most`));
  batch.flush(); // what is done before this call is known before its effect
  const number = ++calls;
  const answer = new Promise((resolve, reject) => asked.set(number, { resolve, reject, event }));
  send(OUT.call, { nonce, batch: batch.id, event: event.index, n: event.calls, number, op, args: plain });
  batch.suspend(event);
  return answer;
}

function log(event, level, message) {
  event.batch.logs.push([event.index, level, message]);
}

async function begin(header) {
  ({ nonce, settings } = header);
  const shared = deepFreeze(header.shared);
  const outside = () => {
    throw new Error("only functions that handle an event can do this");
  };
  Context = contexts(shared, { call: ask, log });
  const told = (level) => (...values) => {
    const event = current.getStore();
    if (event) new Context(event).log[level](...values);
  };
  const fetch = (...args) => {
    const event = current.getStore();
    return event ? new Context(event).fetch(...args) : outside();
  };
  const plain = { log: told("info"), info: told("info"), debug: told("debug"), warn: told("warn"), error: told("error") };
  const console = Object.freeze({ ...plain, dir: told("info"), table: told("info"), trace: told("debug"), group: told("info"), groupEnd() {},
    assert: (fine, ...values) => fine || plain.error("assertion failed", ...values) });
  const process = Object.freeze({ env: shared.props });
  const ofNode = await nodeGlobals(header.functions.map(({ code }) => code));
  const { names, fetching } = vendors({ fetch, console, props: shared.props, current: () => current.getStore() });
  reduceGlobals({ ...library, ...waiting.globals, ...ofNode, ...names, Response, penstock: Object.freeze({ ...library }), console, fetch: fetching, process });
  freezeWorld([Context]);
  send(OUT.alive, { nonce, batch: 0 }); // what goes wrong from now on is the functions' doing
  const problems = [];
  for (const { name, code } of header.functions) {
    try {
      chain.push(await load(name, code, shared, () => current.getStore()));
    } catch (error) {
      problems.push([name, problem(error)]);
    }
  }
  sealGlobals();
  send(OUT.loaded, { nonce, problems, policies: chain.map(({ name, config, form }) => ({ name, form, ...config })) });
}

/** Returns {message, line, column} of what is wrong with a module. */
function problem(error) {
  const whole = error instanceof Error ? `${error.message}\n${error.stack ?? ""}` : String(error);
  const place = whole.match(/blob:null\/[0-9a-f-]+:(\d+):(\d+)/);
  const said = (error instanceof Error ? error.message : String(error)).split("\n")[0].replace(/blob:null\/[0-9a-f-]+/g, "the function");
  const missing = said.match(/^Import "([^"]*)" not a dependency/) ?? said.match(/^\w+ specifiers? .*"([^"]*)"/i);
  const message = missing ? `"${missing[1]}" cannot be imported: ${ONE_FILE}` : said;
  return { message: message.slice(0, DETAIL_CHARACTERS), line: place ? Number(place[1]) : 0, column: place ? Number(place[2]) : 0 };
}

// an error in code that no event awaits ends nothing
globalThis.addEventListener("unhandledrejection", (event) => event.preventDefault());
globalThis.addEventListener("error", (event) => event.preventDefault());

let working = Promise.resolve();
for await (const { kind, header, body } of frames()) {
  if (kind === IN.load) await begin(header);
  else if (kind === IN.batch) working = working.then(() => new Batch(header, body).run());
  else if (kind === IN.answer) {
    const { resolve, reject } = asked.get(header.number) ?? {}; // an event that has ended gets none
    asked.delete(header.number);
    if (header.error !== undefined) reject?.(new Error(header.error));
    else resolve?.(header.value);
  }
}
exit(0);
