// The guest's side of a sandbox: one chain of functions of one connection, events in, results out.

import { AsyncLocalStorage } from "node:async_hooks";
import { batches } from "./batch.js";
import { contexts, deepFreeze } from "./context.js";
import { loader } from "./functions.js";
import * as library from "./library.js";
import { freezeWorld, reduceGlobals, sealGlobals } from "./lockdown.js";
import { node, ONE_FILE } from "./node.js";
import { Response } from "./response.js";
import { vendors } from "./vendors.js";
import { timers } from "./timers.js";
import { wire } from "./wire.js";

const { exit, frames, send, text } = wire();
const load = loader();
const nodeGlobals = node();
const makeBatches = batches();

const IN = { load: 1, batch: 2, answer: 3 };
const OUT = { loaded: 1, results: 2, call: 3, started: 4, alive: 5 };
const MOST_CALL_CHARACTERS = 8 * 1024 * 1024; // that one event gives to its calls
const DETAIL_CHARACTERS = 500;

const { parse, stringify } = JSON;
const storage = new AsyncLocalStorage();
// Whose work runs? To follow that through every promise, also after an event's end, costs as much as reading the event. So it is
// done only for functions that can ask (`tracked`); for others it is the event that runs and does not wait.
const current = {
  tracked: true,
  starting: null,
  event: () => (current.tracked ? storage.getStore() : current.starting) ?? undefined,
  enter: storage.enterWith.bind(storage),
  alone: storage.run.bind(storage, undefined),
  within: storage.run.bind(storage),
};
const waiting = timers()(current.event);

if (!Uint8Array.fromBase64 || !JSON.rawJSON) throw new Error("this Deno is too old");

let nonce = "";
let chain = [];
let Batch;
let contextOf;
const asked = new Map(); // calls that the host has not answered, by number
let calls = 0;

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
  ({ nonce } = header);
  Batch = makeBatches({
    chain, current, waiting, asked, text, settings: header.settings,
    contextOf: (event) => contextOf(event), freeze: deepFreeze,
    tell: (kind, said, texts) => send(OUT[kind], { nonce, ...said }, texts),
  });
  const shared = deepFreeze(header.shared);
  const outside = () => {
    throw new Error("only functions that handle an event can do this");
  };
  const made = contexts(shared, { call: ask, log });
  ({ contextOf } = made);
  const told = (level) => (...values) => {
    const event = current.event();
    if (event) (event.logger ??= made.logOf(event))[level](...values);
  };
  const fetch = (...args) => {
    const event = current.event();
    return event ? made.fetchOf(event)(...args) : outside();
  };
  const plain = { log: told("info"), info: told("info"), debug: told("debug"), warn: told("warn"), error: told("error") };
  const console = Object.freeze({ ...plain, dir: told("info"), table: told("info"), trace: told("debug"), group: told("info"), groupEnd() {},
    assert: (fine, ...values) => fine || plain.error("assertion failed", ...values) });
  const process = Object.freeze({ env: shared.props });
  const ofNode = await nodeGlobals(header.functions.map(({ code }) => code));
  const { names, fetching } = vendors({ fetch, console, props: shared.props, current: current.event });
  reduceGlobals({ ...library, ...waiting.globals, ...ofNode, ...names, Response, penstock: Object.freeze({ ...library }), console, fetch: fetching, process });
  freezeWorld();
  send(OUT.alive, { nonce, batch: 0 }); // what goes wrong from now on is the functions' doing
  const problems = [];
  for (const { name, code } of header.functions) {
    try {
      chain.push(await load(name, code, shared, current));
    } catch (error) {
      problems.push([name, problem(error)]);
    }
  }
  sealGlobals();
  current.tracked = chain.some((step) => step.tracked);
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
