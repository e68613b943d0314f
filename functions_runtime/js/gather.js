// Functions that take many events at once. Events that reach such a function wait there for the next ones; then it runs once for all of
// them, and what it gives is shared out, so that each event still has an end of its own.

import { InvalidEventPayload, RetryError } from "./library.js";
import { once } from "./once.js";

const MOST = 200; // events that a function gets at once
const ALONE_AT_ONCE = 20;
const PATIENCE = 0.9; // of the time that an event may wait: a batch that takes longer is tried in parts
const AFTERWARDS_MS = 500; // when the time of an event is over, it has ended after so long

const { parse, stringify } = JSON;
const { isArray } = Array;
const { setTimeout: later, clearTimeout: notLater } = globalThis;
const now = performance.now.bind(performance);
// what these say, they say of all events that the function got
const MEANT = new Set(["RetryError", "DropRetryError", "NoRetryError", "DropEvent", "EventNotSupported", "ValidationError", "InvalidEventPayload"]);

const meant = (error) => {
  try {
    return error instanceof Error && MEANT.has(error.name);
  } catch {
    return false;
  }
};

const isObject = (value) => value !== null && typeof value === "object";
const isStatus = (value) => isObject(value) && Number.isInteger(value.status) && value.type === undefined && value.messageId === undefined;

/** Returns which results belong to which event: lists in the order of the events, or an error in place of one. */
function shares(events, results) {
  const shared = events.map(() => []);
  if (results === undefined || results === null || results === false || results === "drop") return shared;
  if (!isArray(results)) throw new TypeError(`returned ${typeof results}, not a list of events`);
  const flat = [];
  for (let i = 0; i < results.length; i++) isArray(results[i]) ? flat.push(...results[i]) : flat.push(results[i]);
  if (flat.length && flat.every(isStatus)) {
    if (flat.length !== events.length) throw new TypeError(`returned ${flat.length} statuses for ${events.length} events`);
    return flat.map(statusOf);
  }
  const places = new Map();
  events.forEach((event, place) => {
    places.set(event.value, place);
    if (!places.has(event.id)) places.set(event.id, place);
  });
  for (let i = 0; i < flat.length; i++) {
    const made = flat[i];
    if (made === undefined || made === null) continue;
    if (typeof made !== "object") throw new TypeError(`returned ${typeof made} in its list, not an event`);
    if (made instanceof Promise) throw new TypeError("returned a promise inside of its list: await it (`Promise.all`)");
    const same = flat.length === events.length;
    const id = made.messageId;
    // what bears the id of no event belongs to the one in its place, or to the first
    const place = same && events[i].id === id ? i : places.get(made) ?? (id === undefined ? undefined : places.get(id)) ?? (same ? i : 0);
    shared[place].push(made);
  }
  return shared;
}

/** What Segment's functions say of an event that they sent themselves: only failures that may pass are tried again. */
function statusOf({ status, errormessage }) {
  if (status < 400) return [];
  const words = `status ${status}${errormessage === undefined ? "" : `: ${errormessage}`}`;
  return status === 429 || status >= 500 ? new RetryError(words, { drop: true }) : new InvalidEventPayload(words);
}

/** Makes a step of a function for many events. run(events): its code; here(): the event that runs; within(event, work): does work as that event's. */
function gathers(run, here, within) {
  let group = null;
  let before = Promise.resolve();

  const settle = async (members) => {
    const events = members.filter(({ event }) => !event.ended);
    if (!events.length) return;
    for (const { event } of events) event.since = now();
    const { wallMs } = events[0].event.batch;
    let timer;
    try {
      // what it asks is asked by the first of them: the calls of an event end with it, so none may be another one's
      const work = within(events[0].event, () => run(events.map(({ value }) => value)));
      const over = new Promise((_, reject) => {
        timer = later(() => reject(new Error("no answer in time")), events.length > 1 ? wallMs * PATIENCE : wallMs + AFTERWARDS_MS);
      });
      const parts = shares(events, await Promise.race([work, over]));
      events.forEach(({ resolve, reject }, place) => (parts[place] instanceof Error ? reject(parts[place]) : resolve(parts[place])));
    } catch (error) {
      if (events.length === 1 || meant(error)) return events.forEach(({ reject }) => reject(error));
      // one of them is to blame: each runs alone, as it came
      const alone = events.map((member) => ({ ...member, value: parse(member.text) }));
      for (const { event } of events) event.since = Infinity;
      while (alone.length) await Promise.all(alone.splice(0, ALONE_AT_ONCE).map((member) => settle([member])));
    } finally {
      notLater(timer);
    }
  };

  return (value) => {
    const event = here();
    if (group === null) {
      const members = group = [];
      later(() => {
        if (group === members) group = null;
        before = before.then(() => settle(members));
      }, 0); // when no event can begin before these are at their end
    }
    const members = group;
    if (members.length + 1 >= MOST) group = null;
    const part = new Promise((resolve, reject) => members.push({ value, id: value.messageId, text: stringify(value), event, resolve, reject }));
    event.batch.suspend(event);
    event.since = Infinity; // its time begins when the function runs
    return part;
  };
}

export const gather = once({ gathers, most: MOST });
