// A batch of events on its way through the chain.
//
// Events run in a lane, one after the other; an event costs no promise beyond those of its functions. An event that waits for
// something keeps its lane, and the next events run in another one. The lane goes on when its event is at its end, if there is no other.

import { once } from "./once.js";
import { DEAD, OUTPUTS, SAME, detail, enter, failed, took } from "./outcome.js";

const FLUSH_CHARACTERS = 256 * 1024;
const FLUSH_MS = 100;
const ALIVE_MS = 250;
const AT_ONCE = 20; // events that may wait for something at the same time
const PIECE_BYTES = 64 * 1024; // of the batch, that become text together

const now = performance.now.bind(performance);
const roughly = Date.now.bind(Date); // it may be set while we run, and costs a tenth of `now`
const { setInterval: every, clearInterval: clearEvery } = globalThis;
const resolved = Promise.resolve();

/** Makes the class of batches.
 * chain: the steps, {name, call, form}; current: the event that runs, as guest.js keeps it; waiting: timers of users; asked: calls without an
 * answer; settings: of the host; contextOf(event): its `ctx`; freeze(value): all of it; tell(kind, header, texts): writes to the host; text(bytes). */
function makeBatches({ chain, current, waiting, asked, settings, contextOf, freeze, tell, text }) {
  return class Batch {
    /** header: {id, careful, requests, retries, sizes, wide, indexes, of, users, exact}, as `functions_runtime/sandbox/wire.py` says. */
    constructor(header, body) {
      this.header = header;
      freeze(header.requests); // events share them
      this.id = header.id;
      this.careful = header.careful;
      this.wallMs = settings.wallMs;
      // its first function takes many events: they wait for each other there, also those of one user
      this.many = chain[0]?.many;
      this.most = header.careful ? 1 : this.many ?? AT_ONCE;
      this.body = body;
      this.wideAt = header.wide; // where the texts begin that are not ASCII
      this.exact = header.exact.length ? new Set(header.exact) : null;
      this.at = 0; // in the ASCII part of the body
      this.piece = ""; // of that part, as text
      this.pieceAt = 0;
      this.next = 0; // of the events
      this.left = header.sizes.length;
      this.active = false; // whether a lane has an event that does not wait; that is `current.starting`
      this.running = new Set(); // events that wait
      this.busy = new Set(); // their users
      this.results = [];
      this.texts = [];
      this.logs = [];
      this.held = 0;
      this.flushed = roughly();
      this.over = null;
    }

    flush() {
      if (this.results.length || this.logs.length) {
        tell("results", { batch: this.id, results: this.results, logs: this.logs }, this.texts);
        this.results = [];
        this.texts = [];
        this.logs = [];
        this.held = 0;
      }
      this.flushed = roughly();
    }

    async run() {
      const beat = every(() => {
        if (current.starting !== null) this.suspend(current.starting); // it waits for something that we do not see
        this.expire();
        this.flush();
        tell("alive", { batch: this.id });
      }, ALIVE_MS);
      await new Promise((resolve) => {
        this.over = resolve;
        this.go();
      });
      clearEvery(beat);
      this.flush();
    }

    /** Runs the next events, unless a lane does that. */
    go() {
      if (this.active) return;
      this.active = true;
      current.alone(() => this.lane());
    }

    async lane() {
      const steps = chain.length;
      for (let event; (event = this.take()) !== null;) {
        if (current.tracked) current.enter(event); // what runs from here on, also later, is the event's
        let outcome = null;
        try {
          enter(event);
          const context = contextOf(event);
          for (let number = 0; outcome === null; number++) {
            if (event.ended) return; // its time is over, and another lane goes on
            const step = chain[number];
            const last = number === steps - 1;
            try {
              const { call } = step;
              let result = call(event.value, context);
              if (result !== null && typeof result === "object" && typeof result.then === "function") result = await result;
              outcome = took(event, result, step, last, settings);
            } catch (error) {
              outcome = failed(event, error, step, last, settings);
            }
          }
        } catch (error) {
          outcome = [DEAD, "function_failed", detail(error), ""]; // our own code met what it does not know
        }
        if (event.ended) return;
        this.finish(event, outcome);
        if (event.waits) {
          if (this.active) return;
          this.active = true;
        }
        if (this.held > FLUSH_CHARACTERS || roughly() - this.flushed > FLUSH_MS) this.flush();
      }
      this.active = false;
      if (this.left === 0) this.over();
    }

    /** Returns the next event if it can begin, else null. */
    take() {
      const { header } = this;
      const { sizes, users } = header;
      const place = this.next;
      if (place === sizes.length || this.running.size >= this.most) return null;
      const user = users[place];
      if (this.many === undefined && this.busy.has(user)) return null;
      this.next++;
      const index = header.indexes === null ? place : header.indexes[place];
      const event = {
        index, user, written: this.textOf(sizes[place]), exact: this.exact !== null && this.exact.has(place),
        value: undefined, numbers: null, same: true, errors: null, retry: null,
        request: header.requests[header.of === null ? 0 : header.of[place]], retries: header.retries === null ? 0 : header.retries[place],
        logs: 0, calls: 0, asked: 0, ended: false, waits: false, rudder: false, batch: this, since: 0, timers: null, logger: null,
      };
      if (this.careful) {
        this.flush(); // the host knows all before this event
        tell("started", { batch: this.id, index });
      }
      current.starting = event;
      return event;
    }

    /** Returns the text of the next event. A size below zero is that of a text that is not ASCII; these lie at the end of the body. */
    textOf(size) {
      if (size < 0) return text(this.body.subarray(this.wideAt, this.wideAt -= size));
      if (this.at + size > this.pieceAt + this.piece.length) {
        const { sizes } = this.header;
        let end = this.at + size;
        for (let i = this.next; i < sizes.length && end - this.at < PIECE_BYTES; i++) if (sizes[i] > 0) end += sizes[i];
        this.piece = text(this.body.subarray(this.at, end));
        this.pieceAt = this.at;
      }
      const start = this.at - this.pieceAt;
      this.at += size;
      return this.piece.substring(start, start + size);
    }

    /** Lets the next events go on beside an event that waits. */
    suspend(event) {
      if (event.ended || event.waits) return;
      event.waits = true;
      event.since = now();
      this.running.add(event);
      this.busy.add(event.user);
      current.starting = null;
      this.active = false;
      resolved.then(() => this.go());
    }

    finish(event, [kind, outputs, detail, name]) {
      event.ended = true;
      this.left--;
      if (event.timers !== null) waiting.end(event);
      if (event.calls) for (const [number, call] of asked) if (call.event === event) asked.delete(number); // it hears of nothing more
      const { index, errors, retry } = event;
      let said = outputs;
      if (kind === OUTPUTS) {
        said = outputs.length;
        for (let i = 0; i < said; i++) {
          this.held += outputs[i].length;
          this.texts.push(outputs[i]);
        }
      }
      const plain = errors === null && retry === null && (kind === SAME || (said === 1 && kind === OUTPUTS && name === chain.at(-1).name));
      this.results.push(plain ? (kind === SAME ? ~index : index) : [index, kind, said, detail, name, errors ?? [], retry]);
      if (event.waits) {
        this.running.delete(event);
        this.busy.delete(event.user);
      } else current.starting = null;
    }

    expire() {
      const limit = now() - settings.wallMs;
      for (const event of this.running) {
        if (event.since < limit) this.finish(event, [DEAD, "function_timeout", `no answer within ${settings.wallMs / 1000} s`, ""]);
      }
      this.go();
    }
  };
}

export const batches = once(makeBatches);
