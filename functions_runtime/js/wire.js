// Frames over stdin and stdout: a length (4 bytes, little endian), a kind (1 byte), the payload.
// A payload is a JSON header after its own length (4 bytes), then bytes that the header speaks of.
// Everything is captured before code of users runs: what that changes of the language changes nothing here.

import { once } from "./once.js";

const { exit, stdin, stdout } = Deno;
const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
const { parse, stringify } = JSON;

const text = (bytes) => decoder.decode(bytes);
const encodeInto = encoder.encodeInto.bind(encoder);
const KEPT_BYTES = 2 * 1024 * 1024; // of memory for frames that go out

// Texts of users may hold half a pair of UTF-16, also where we cut them; the host takes none.
const HALF = /(?<!\\)((?:\\\\)*)\\ud[89a-f][0-9a-f]{2}/g;
const written = (header) => {
  const head = stringify(header);
  return head.includes("\\ud") ? head.replace(HALF, "$1\ufffd") : head;
};

let buffer = new Uint8Array(64 * 1024);

/** Writes a frame whole: a header, then texts with a line feed between two. Returns when the host's pipe has taken it. */
function send(kind, header, texts = []) {
  const head = written(header);
  const rest = texts.length === 1 ? texts[0] : texts.join("\n");
  const most = 9 + 3 * (head.length + rest.length); // a unit of UTF-16 takes three bytes at most
  let frame = buffer;
  if (most > frame.length) {
    frame = new Uint8Array(most);
    if (most <= KEPT_BYTES) buffer = frame;
  }
  const headSize = encodeInto(head, frame.subarray(9)).written;
  const size = 9 + headSize + encodeInto(rest, frame.subarray(9 + headSize)).written;
  const view = new DataView(frame.buffer);
  view.setUint32(0, size - 4, true);
  frame[4] = kind;
  view.setUint32(5, headSize, true);
  for (let gone = 0; gone < size;) gone += stdout.writeSync(frame.subarray(gone, size));
}

async function fill(buffer) {
  for (let have = 0; have < buffer.length;) {
    const read = await stdin.read(buffer.subarray(have));
    if (read === null) return false;
    have += read;
  }
  return true;
}

/** As `fill`, for what the host is writing: a thread that reads for us would cost more than it saves. */
function fillNow(buffer) {
  for (let have = 0; have < buffer.length;) {
    const read = stdin.readSync(buffer.subarray(have));
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
    if (!fillNow(rest)) return;
    const length = view.getUint32(5, true);
    yield { kind: start[4], header: parse(decoder.decode(rest.subarray(0, length))), body: rest.subarray(length) };
  }
}

export const wire = once({ exit, frames, send, text });
