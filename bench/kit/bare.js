// The ceiling of bench/functions.py: a bare loop in the same engine, JSON.parse → call → JSON.stringify.
// Lines on stdin: first {functions: [code], bodies: [text]}, then the number of rounds to run; after each it writes one line.

const lines = Deno.stdin.readable.pipeThrough(new TextDecoderStream());
let held = "", functions, bodies;

async function work(rounds) {
  let size = 0;
  for (let round = 0; round < rounds; round++) {
    for (let i = 0; i < bodies.length; i++) {
      let event = JSON.parse(bodies[i]);
      for (let j = 0; j < functions.length; j++) event = await functions[j](event, {});
      size += JSON.stringify(event).length;
    }
  }
  return size;
}

for await (const piece of lines) {
  held += piece;
  for (let end; (end = held.indexOf("\n")) >= 0;) {
    const line = JSON.parse(held.slice(0, end));
    held = held.slice(end + 1);
    if (typeof line === "number") console.log(await work(line));
    else {
      bodies = line.bodies;
      functions = await Promise.all(line.functions.map(async (code) => (await import(`data:text/javascript,${encodeURIComponent(code)}`)).default));
      console.log(0);
    }
  }
}
