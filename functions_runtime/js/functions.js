// Modules of users become steps of a chain: {name, call(event, context), form, many}; `many`: how many events it takes at once, if it does.
// Three forms are understood: a default export (Penstock's and Jitsu's), RudderStack's transformations, Segment's handlers.

import { gather } from "./gather.js";
import { once } from "./once.js";

const HANDLERS = { track: "onTrack", identify: "onIdentify", page: "onPage", screen: "onScreen", group: "onGroup", alias: "onAlias", delete: "onDelete" };
const ENTRIES = ["transformEvent", "transformBatch", "transform", "onBatch", ...Object.values(HANDLERS)];
const DECLARED = new RegExp(`^(?:(?:async\\s+)?function|const|let|var)\\s+(${ENTRIES.join("|")})\\b`, "gm");
// in the first line, so that all lines keep their numbers
const MODULE = "const module={exports:{}};let exports=module.exports;";

// Libraries that look for the global object in a `this` of the top level, which modules have not: where their wrapper ends, or begins
const WRAPPER = /^(\}\)?\s*\((?:[^()\n]*[?:,]\s*)?|!function\b.*\}\()this(?=\s*[,)])/gm;

const { gathers, most } = gather();
// What asks whose work runs, and ways to reach that under another name. Words in comments and texts count too: that costs time only.
const ASKING = new RegExp([
  "\\b(?:console|fetch|fetchV2|(?:set|clear)(?:Timeout|Interval)|queueMicrotask|Abort(?:Controller|Signal)|Event(?:Target)?)\\b",
  "(?<![\\w$)\\]]\\s*\\??\\.\\s*)\\blog\\b", // a name, not a member
  "\\b(?:globalThis|global|self|window|amd|import)\\b|\\\\u",
].join("|"));
const OURS = /^\s*import\b[^;'"\n]*['"](?:penstock|@jitsu\/functions-lib)['"]/gm;

const { createObjectURL, revokeObjectURL } = URL;
const Code = Blob;

// Jitsu's package of types: `import { JitsuFunction }` without `type` is what its guides write
const TYPES = /^(\s*import\s+)(\{[^}]*\}\s*from\s*['"]@jitsu\/protocols(?:\/[\w-]+)*['"])/gm;

async function imported(code) {
  let text = code.includes("amd") ? code.replace(WRAPPER, "$1globalThis") : code;
  if (text.includes("@jitsu/protocols")) text = text.replace(TYPES, "$1type $2");
  const url = createObjectURL(new Code([text], { type: "application/typescript" }));
  try {
    return await import(url);
  } finally {
    revokeObjectURL(url);
  }
}

/** As `imported`, for code that exports as CommonJS does. */
async function required(code) {
  const found = (await imported(`${MODULE}${code}\nexport { module as "penstock module" };`))["penstock module"].exports;
  return typeof found === "function" ? { default: found, config: found.config } : { ...found };
}

/** The step of one function, or throws an Error that says what is wrong with it.
 * here(): the event that runs; within(event, work): does work as that event's. */
async function load(name, code, shared, { event: here, within }) {
  let found;
  try {
    found = await imported(code);
  } catch (error) {
    if (!(error instanceof ReferenceError) || !/^(module|exports) is not defined/.test(error.message)) throw error;
    found = await required(code);
  }
  if (!entryOf(found)) {
    const declared = [...new Set(Array.from(code.matchAll(DECLARED), (match) => match[1]))];
    if (!declared.length) throw new Error(`no function is exported: write \`export default function (event, ctx) { … }\``);
    found = await imported(`${code}\nexport { ${declared.join(", ")} };`);
  }
  if (typeof found.default === "function" && /^class\b/.test(found.default)) throw new Error("the default export is a class: export a function");
  const made = step(found, shared, here, within);
  const tracked = made.form === "rudder" || made.many !== undefined || ASKING.test(code.replace(OURS, "")); // these ask for their event
  return { name, config: config(found.config), tracked, ...made };
}

const entryOf = (module) => typeof module.default === "function" || ENTRIES.some((entry) => typeof module[entry] === "function");

function config(given) {
  if (given === undefined || given === null) return {};
  if (typeof given !== "object") throw new Error("`config` is an object");
  const policy = given.retryPolicy ?? {};
  const delays = policy.delays ?? [];
  const retries = policy.retries ?? policy.attempts ?? (delays.length || undefined);
  if (retries !== undefined && (!Number.isInteger(retries) || retries < 0)) throw new Error("`config.retryPolicy.retries` is a number of times");
  if (!Array.isArray(delays) || !delays.every((delay) => Number.isFinite(delay) && delay >= 0)) {
    throw new Error("`config.retryPolicy.delays` is a list of minutes");
  }
  return { retries, delays };
}

function step(module, shared, here, within) {
  if (typeof module.default === "function") return { call: module.default, form: "penstock" };
  const metadata = metadataOf(shared);
  const { transformEvent } = module;
  if (typeof transformEvent === "function") return { call: rudders((event) => transformEvent(event, metadata), here), form: "rudder" };
  const transformBatch = module.transformBatch ?? module.transform;
  if (typeof transformBatch === "function") {
    return { call: gathers(rudders((events) => transformBatch(events, metadata), here), here, within), form: "rudder", many: most };
  }
  const { props } = shared;
  const { onBatch } = module;
  if (typeof onBatch === "function") return { call: gathers(async (events) => onBatch(events, props), here, within), form: "segment", many: most };
  return {
    call: (event) => {
      const handler = module[HANDLERS[event.type]];
      return typeof handler === "function" ? handler(event, props) : null;
    },
    form: "segment",
  };
}

/** RudderStack's `fetch` is another one than that of everyone else. */
const rudders = (run, here) => async (given) => {
  const event = here();
  event.rudder = true;
  try {
    return await run(given);
  } finally {
    event.rudder = false;
  }
};

/** What RudderStack's transformations are told of an event. */
const metadataOf = ({ site, destination, connection, workspace }) => (event) => ({
  sourceId: site?.id,
  sourceName: site?.name,
  sourceType: site?.id,
  sourceCategory: "",
  workspaceId: workspace?.id,
  namespace: workspace?.id,
  destinationId: destination?.id,
  destinationName: destination?.id,
  destinationType: destination?.type,
  connectionId: connection?.id,
  mode: "cloudMode",
  messageId: event?.messageId,
  rudderId: event?.anonymousId,
  sourceEventId: event?.messageId,
  receivedAt: event?.receivedAt,
  eventName: event?.event,
  eventType: event?.type,
});

export const loader = once(load);
