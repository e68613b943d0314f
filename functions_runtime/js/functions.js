// Modules of users become steps of a chain: {name, call(event, context), strict}.
// Three forms are understood: a default export (Penstock's and Jitsu's), RudderStack's transformations, Segment's handlers.

import { once } from "./once.js";

const HANDLERS = { track: "onTrack", identify: "onIdentify", page: "onPage", screen: "onScreen", group: "onGroup", alias: "onAlias", delete: "onDelete" };
const ENTRIES = ["transformEvent", "transformBatch", ...Object.values(HANDLERS)];
const DECLARED = new RegExp(`^(?:async\\s+)?function\\s+(${ENTRIES.join("|")})\\b`, "gm");

const { createObjectURL, revokeObjectURL } = URL;
const Code = Blob;

async function imported(code) {
  const url = createObjectURL(new Code([code], { type: "application/typescript" }));
  try {
    return await import(url);
  } finally {
    revokeObjectURL(url);
  }
}

/** The steps of one function, or throws an Error that says what is wrong with it. */
async function load(name, code, props) {
  let found = await imported(code);
  if (!entryOf(found)) {
    const declared = [...new Set(Array.from(code.matchAll(DECLARED), (match) => match[1]))];
    if (!declared.length) throw new Error(`no function is exported: write \`export default function (event, ctx) { … }\``);
    found = await imported(`${code}\nexport { ${declared.join(", ")} };`);
  }
  return { name, config: config(found.config), ...step(found, props) };
}

const entryOf = (module) => typeof module.default === "function" || ENTRIES.some((entry) => typeof module[entry] === "function");

function config(given) {
  if (given === undefined || given === null) return {};
  if (typeof given !== "object") throw new Error("`config` is an object");
  const policy = given.retryPolicy ?? {};
  const delays = policy.delays ?? [];
  const retries = policy.retries ?? policy.attempts ?? (delays.length || undefined);
  if (retries !== undefined && (!Number.isInteger(retries) || retries < 0)) throw new Error("`config.retryPolicy.retries` is a number of times");
  if (!Array.isArray(delays) || !delays.every((delay) => typeof delay === "number" && delay >= 0)) {
    throw new Error("`config.retryPolicy.delays` is a list of seconds");
  }
  return { retries, delays };
}

function step(module, props) {
  if (typeof module.default === "function") return { call: module.default, form: "penstock" };
  if (typeof module.transformEvent === "function") {
    return { call: (event, context) => module.transformEvent(event, metadata(context)), form: "rudder" };
  }
  if (typeof module.transformBatch === "function") {
    return { call: (event, context) => module.transformBatch([event], metadata(context)), form: "rudder" };
  }
  return {
    call: (event) => {
      const handler = module[HANDLERS[event.type]];
      return typeof handler === "function" ? handler(event, props) : null;
    },
    form: "segment",
  };
}

/** What RudderStack's transformations are told of an event. */
const metadata = (context) => (event) => ({
  sourceId: context.site.id,
  sourceName: context.site.name,
  destinationId: context.destination.id,
  destinationName: context.destination.id,
  destinationType: context.destination.type,
  messageId: event?.messageId,
  eventName: event?.event,
  eventType: event?.type,
});

export const loader = once(load);
