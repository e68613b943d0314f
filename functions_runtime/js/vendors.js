// Names that functions of other products find in their world: RudderStack's `log`, `getCredential`, `fetchV2`, Segment's `cache`.

const MOST_CACHED = 1000;

const bodyOf = async (answer) => {
  const text = await answer.text();
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
};

/** Segment's `cache`: it lives as long as the sandbox does, and the oldest of its values go first. */
function cacheOf() {
  const kept = new Map();
  return Object.freeze({
    async load(key, milliseconds, make) {
      const found = kept.get(key);
      if (found !== undefined && found.until > Date.now()) return found.value;
      const work = typeof milliseconds === "function" ? milliseconds : make;
      const value = await work();
      const lasts = typeof milliseconds === "number" && milliseconds >= 0 ? milliseconds : Infinity;
      kept.delete(key);
      kept.set(key, { value, until: Date.now() + lasts });
      if (kept.size > MOST_CACHED) kept.delete(kept.keys().next().value);
      return value;
    },
    delete: (key) => void kept.delete(key),
  });
}

/** Returns the names, and the `fetch` that knows whose function asks: RudderStack's one gives what the answer says, not the answer. */
export function vendors({ fetch, console, props, current }) {
  const fetchV2 = async (url, options) => {
    const answer = await fetch(url, options);
    return { url: answer.url, status: answer.status, headers: Object.fromEntries(answer.headers), body: await bodyOf(answer) };
  };
  const said = async (url, options) => {
    try {
      return await bodyOf(await fetch(url, options));
    } catch (error) {
      console.warn(error);
      return "ERROR";
    }
  };
  const names = {
    log: console.log,
    getCredential: (key) => props[key],
    fetchV2,
    cache: cacheOf(),
    async geolocation() {
      throw new Error("there is no geolocation here; what the server knows of an event's place is in `event.context.geo`");
    },
  };
  return { names, fetching: (...args) => (current()?.rudder ? said : fetch)(...args) };
}
