// What only the guest may have. Code of users can import our modules (the engine lets through what it has loaded), but comes too late.

/** Returns a function that gives `thing` to its first caller. */
export function once(thing) {
  let given = false;
  return () => {
    if (given) throw new Error("modules of the sandbox are not there for functions");
    given = true;
    return thing;
  };
}
