// Timers of users. Each belongs to the event that made it: no other event can stop it, and it ends with its event.

import { once } from "./once.js";

const { setTimeout: later, clearTimeout: clearLater, setInterval: every, clearInterval: clearEvery } = globalThis;
const MOST_TIMERS = 1000;

/** Makes the globals that wait, and what ends those of an event. current(): the event that runs, if one does. */
function timersFor(current) {
  const known = new Map(); // by the number that users have
  let last = 0;

  const forget = (number) => {
    const timer = known.get(number);
    if (timer === undefined) return;
    known.delete(number);
    timer.event?.timers?.delete(number);
    if (timer.once) clearLater(timer.real);
    else clearEvery(timer.real);
  };
  const guarded = (make, once) => (work, delay, ...rest) => {
    if (typeof work !== "function") throw new TypeError("a timer needs a function");
    const event = current();
    if (event?.ended) return 0;
    if (known.size >= MOST_TIMERS) throw new Error(`more than ${MOST_TIMERS} timers`);
    const number = ++last;
    const run = () => {
      if (once) forget(number);
      return work(...rest);
    };
    const real = make(run, Number(delay));
    known.set(number, { real, once, event });
    if (event) {
      (event.timers ??= new Set()).add(number);
      event.batch.suspend(event);
    }
    return number;
  };
  const clear = (number) => {
    if (known.get(number)?.event === current()) forget(number);
  };
  const setTimeout = guarded(later, true);
  AbortSignal.timeout = (milliseconds) => {
    const controller = new AbortController();
    setTimeout(() => controller.abort(new DOMException("Signal timed out.", "TimeoutError")), milliseconds);
    return controller.signal;
  };
  const resolved = Promise.resolve();
  const queueMicrotask = (work) => {
    if (typeof work !== "function") throw new TypeError("a microtask is a function");
    resolved.then(() => work());
  };
  return {
    globals: { queueMicrotask, setTimeout, setInterval: guarded(every, false), clearTimeout: clear, clearInterval: clear },
    /** Ends the timers of an event. */
    end(event) {
      for (const number of [...event.timers]) forget(number);
    },
  };
}

export const timers = once(timersFor);
