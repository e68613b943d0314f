// What became of an event in a function, and of an event in the chain. Nothing here reaches the host.
// An outcome is [kind, outputs | function | reason, detail, function].

import { read, show, write } from "./context.js";

export const SAME = 0, OUTPUTS = 1, DROPPED = 2, DEAD = 3;
const DETAIL_CHARACTERS = 500;
const { isArray } = Array;
const { parse } = JSON;

/** Returns a member of what a function threw. Its getters are code of users, and may throw or give anything. */
const member = (error, name) => {
  try {
    return error instanceof Error ? error[name] : undefined;
  } catch {
    return undefined;
  }
};

/** Returns the words of what was thrown, with its place in the function. */
export const detail = (error) => {
  const stack = member(error, "stack");
  const place = typeof stack === "string" ? stack.match(/blob:null\/[0-9a-f-]+:(\d+):(\d+)/) : null;
  return (show(error) + (place ? ` (line ${place[1]}, column ${place[2]})` : "")).slice(0, DETAIL_CHARACTERS);
};

/** Reads an event for its next function. */
export function enter(event) {
  if (event.exact) {
    const [value, numbers] = read(event.written);
    event.value = value;
    event.numbers ??= numbers;
  } else event.value = parse(event.written);
}

/** Takes what a function returned; returns the event's outcome, or null: the next function is to run.
 * step: {name, form}; last: whether it is the last of the chain; settings: {mostOutputs, mostBytes}. */
export function took(event, result, { name, form }, last, settings) {
  if (isArray(result) && result.length === 1) result = result[0];
  const drops = result === null || result === false || result === "drop" || (isArray(result) && !result.length)
    || (result === undefined && form !== "penstock");
  if (drops) return [DROPPED, name, "", name];
  if (isArray(result)) {
    if (!last) return [DEAD, "function_result", "only the last function of a chain may return more than one event", name];
    if (result.length > settings.mostOutputs) return tooMuch(result.length, 0, name, settings);
    const all = [];
    for (let i = 0; i < result.length; i++) all.push(checked(result[i], event.numbers)); // its own `map` is code of users
    return within(all, name, settings);
  }
  if (result === undefined) return passed(event, last, settings);
  const made = checked(result, event.numbers);
  event.same = false;
  if (last) return within([made], name, settings);
  event.value = result;
  event.written = made;
  return null;
}

/** Takes what a function threw; returns as `took`. settings: also {onError}. */
export function failed(event, error, { name }, last, settings) {
  const kind = member(error, "name");
  if (kind === "DropRetryError" || (kind === "RetryError" && member(error, "drop"))) {
    event.retry = [detail(error), name, true];
    return [DROPPED, name, "", name];
  }
  if (kind === "DropEvent" || kind === "EventNotSupported") return [DROPPED, name, "", name];
  if (kind === "NoRetryError" || kind === "InvalidEventPayload" || kind === "ValidationError") {
    return [DEAD, "function_failed", detail(error), name];
  }
  (event.errors ??= []).push([name, detail(error)]);
  if (kind === "RetryError") event.retry = [detail(error), name, false];
  else if (settings.onError === "dead_letter") return [DEAD, "function_failed", detail(error), name];
  else if (settings.onError === "drop") return [DROPPED, name, "failed", name];
  return passed(event, last, settings);
}

/** The event goes on as it came into the function, without what that did to its copy. */
function passed(event, last, settings) {
  if (last) return event.same ? [SAME, "", "", ""] : within([event.written], "", settings);
  enter(event);
  return null;
}

function checked(value, numbers) {
  const kind = value === null ? "null" : isArray(value) ? "an array" : typeof value;
  if (kind !== "object") throw new TypeError(`returned ${kind}, not an event`);
  const written = write(value, numbers);
  if (typeof written !== "string" || written[0] !== "{") throw new TypeError("returned a value that is no JSON object");
  if (written === "{}") throw new TypeError(`returned ${emptyThing(value)}, not an event`);
  return written;
}

/** Says what an object without keys is: a promise in a list, a generator or a `Map` is nothing in JSON. */
function emptyThing(value) {
  if (value instanceof Promise) return "a promise inside of a list (await it: `Promise.all`)";
  return value instanceof Map ? "a Map" : Symbol.iterator in value || Symbol.asyncIterator in value ? "an iterator" : "an object without keys";
}

function within(outputs, name, settings) {
  let size = 0;
  for (let i = 0; i < outputs.length; i++) size += outputs[i].length;
  return size > settings.mostBytes ? tooMuch(outputs.length, size, name, settings) : [OUTPUTS, outputs, "", name];
}

function tooMuch(amount, size, name, { mostOutputs, mostBytes }) {
  const allowed = `at most ${mostOutputs} events of ${mostBytes} characters are allowed`;
  return [DEAD, "function_result", `${amount} events${size ? ` of ${size} characters` : ""}; ${allowed}`, name];
}
