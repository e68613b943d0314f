// Frames over stdin and stdout: a length (4 bytes, little endian), a kind (1 byte), the payload.
// A payload is a JSON header after its own length (4 bytes), then bytes that the header speaks of.
// Everything is captured before code of users runs: what that changes of the language changes nothing here.

import { once } from "./once.js";

const { exit, stdin, stdout } = Deno;
const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
const { parse, stringify } = JSON;

const text = (bytes) => decoder.decode(bytes);
const bytes = (value) => encoder.encode(value);

// Texts of users may hold half a pair of UTF-16, also where we cut them; the host takes none.
const HALF = /(?<!\\)((?:\\\\)*)\\ud[89a-f][0-9a-f]{2}/g;
const written = (header) => {
  const head = stringify(header);
  return head.includes("\\ud") ? head.replace(HALF, "$1\ufffd") : head;
};

/** Writes a frame whole; returns when the host's pipe has taken it. */
function send(kind, header, bodies = []) {
  const head = encoder.encode(written(header));
  let size = 5 + head.length;
  for (let i = 0; i < bodies.length; i++) size += bodies[i].length;
  const frame = new Uint8Array(4 + size);
  const view = new DataView(frame.buffer);
  view.setUint32(0, size, true);
  frame[4] = kind;
  view.setUint32(5, head.length, true);
  frame.set(head, 9);
  let at = 9 + head.length;
  for (let i = 0; i < bodies.length; i++) {
    frame.set(bodies[i], at);
    at += bodies[i].length;
  }
  for (let gone = 0; gone < frame.length;) {
    gone += stdout.writeSync(frame.subarray(gone));
  }
}

async function fill(buffer) {
  for (let have = 0; have < buffer.length;) {
    const read = await stdin.read(buffer.subarray(have));
    if (read === null) return false;
    have += read;
  }
  return true;
}

/** Yields {kind, header, body} until the host closes the pipe. */
async function* frames() {
  const start = new Uint8Array(9);
  const view = new DataView(start.buffer);
  while (await fill(start)) {
    const rest = new Uint8Array(view.getUint32(0, true) - 5);
    if (!(await fill(rest))) return;
    const length = view.getUint32(5, true);
    yield { kind: start[4], header: parse(decoder.decode(rest.subarray(0, length))), body: rest.subarray(length) };
  }
}

export const wire = once({ bytes, exit, frames, send, text });
