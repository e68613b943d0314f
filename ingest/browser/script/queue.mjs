// Events until the server has them: kept in memory and in localStorage, sent in batches, tried again until they are acknowledged.
//
// Each page has a record of its own in localStorage, so pages of one site never write over each other. A page that ends marks its
// record; the next page, or another that is open, takes the events over and sends them. The events keep their messageId, so what
// arrives twice counts once. A page that crashed leaves no mark; its record is taken over when it is STALE.

import { forget, keep, namesFrom, newId, read, readJson, toText } from "./storage.mjs"

const MOST_EVENTS = 1000
// the site shares its few megabytes of localStorage with us
const MOST_BYTES = 1000000
const BATCH_EVENTS = 100
// browsers allow 64 KiB under way for requests that outlive their page
const BATCH_BYTES = 60000
// what stands around the events of a batch
const AROUND_BYTES = 200
// browsers let a page in the background work once a minute
const STALE_MILLISECONDS = 180000
const BEAT_MILLISECONDS = 15000
const SOON_MILLISECONDS = 100
const FIRST_PAUSE = 1000
const LONGEST_PAUSE = 60000
// the key may be mended meanwhile, but not soon
const LONGEST_REFUSED_PAUSE = 600000
// timers of browsers take no more than 24 days
const LONGEST_ASKED_PAUSE = 3600000
const GONE = new Set([400, 413, 415, 422])
// clocks that people set must not stop the queue
const tick = () => performance.now()

export function createQueue({ name, transport, delay, log, warn }) {
  const prefix = name + "."
  const own = prefix + newId()
  const flying = new Set()
  let waiting = []
  let number = 0
  let most = BATCH_EVENTS
  let failures = 0
  let pausedUntil = 0
  // the part of it that the server asked for, which nothing but time ends
  let askedUntil = 0
  let timer = 0
  let beat = 0
  let soon = 0
  let isFull = false
  let isForeign = false
  let kept = false
  let left = false
  let idle = []

  const all = () => [...[...flying].flat(), ...waiting].sort((one, other) => one.number - other.number)

  function write() {
    clearTimeout(soon)
    soon = 0
    const items = all()
    if (!items.length) forget(own)
    else {
      const asked = Math.max(0, Math.round(askedUntil - tick()))
      const text = `{"at":${Date.now()},"left":${left},"asked":${asked},"events":[${items.map((item) => item.text).join()}]}`
      // no room: at least no older state, which holds events that are sent
      kept = keep(own, text)
      if (!kept) forget(own)
    }
    clearTimeout(beat)
    if (items.length && !left) beat = setTimeout(write, BEAT_MILLISECONDS)
    if (!items.length) idle.splice(0).forEach((done) => done())
  }

  function itemOf(text) {
    return { number: number++, text, bytes: new TextEncoder().encode(text).length + 1 }
  }

  function push(event) {
    waiting.push(itemOf(toText(event)))
    let bytes = waiting.reduce((sum, item) => sum + item.bytes, 0)
    while (waiting.length > 1 && (waiting.length > MOST_EVENTS || bytes > MOST_BYTES)) {
      bytes -= waiting.shift().bytes
      if (!isFull) warn("too many events wait; the oldest are dropped")
      isFull = true
    }
    // a long record is not written for each of many events
    if (left || waiting.length <= BATCH_EVENTS) write()
    else soon ||= setTimeout(write, SOON_MILLISECONDS)
    if (left || waiting.length >= most) pump(left)
    else later(delay)
  }

  function later(milliseconds) {
    if (timer) return
    timer = setTimeout(() => {
      timer = 0
      pump()
    }, Math.max(milliseconds, pausedUntil - tick()))
  }

  function takeBatch(room, count) {
    const batch = []
    let bytes = 0
    while (waiting.length && batch.length < count && (!batch.length || bytes + waiting[0].bytes <= room)) {
      bytes += waiting[0].bytes
      batch.push(waiting.shift())
    }
    batch.bytes = bytes
    return batch
  }

  // `leaving`: the page may end; everything that fits goes now, in one batch, because several would have no order.
  function pump(leaving) {
    if (!leaving && pausedUntil > tick()) return later(0)
    // offline, or while the server asks to be left alone, the next page sends them, if it can find them; a page that is hidden waits as ever
    if (leaving && (navigator.onLine === false || ((left ? askedUntil : pausedUntil) > tick() && (kept || !left)))) return
    let room = BATCH_BYTES
    if (leaving) for (const batch of flying) room -= batch.bytes + AROUND_BYTES
    while (waiting.length && (leaving ? waiting[0].bytes <= room : flying.size < transport.room())) {
      const batch = takeBatch(leaving ? room : BATCH_BYTES, leaving && most === BATCH_EVENTS ? MOST_EVENTS : most)
      if (leaving) room -= batch.bytes + AROUND_BYTES
      flying.add(batch)
      transport.send(batch.map((item) => item.text), batch.bytes, leaving).then((answer) => settle(batch, answer))
    }
  }

  // `ours`: the edge said it, and not something between the page and the edge.
  function settle(batch, { status, ours, retryAfter, problem }) {
    if (!flying.delete(batch)) return
    if (status === 200 && ours) {
      failures = pausedUntil = askedUntil = 0
      isFull = false
      most = Math.min(BATCH_EVENTS, most * 2)
      log("sent", batch.length)
    } else if (status === 413 && batch.length > 1) {
      most = batch.length >> 1
      waiting.unshift(...batch)
    } else if (GONE.has(status) && (ours || status === 413)) {
      warn(`the server refuses ${batch.length} event(s), they are dropped: ${problem || status}`)
    } else {
      waiting.unshift(...batch)
      const longest = status > 400 && status < 408 ? LONGEST_REFUSED_PAUSE : LONGEST_PAUSE
      const pause = retryAfter > 0 ? Math.min(retryAfter * 1000, LONGEST_ASKED_PAUSE) : Math.min(longest, FIRST_PAUSE * 2 ** failures)
      failures++
      pausedUntil = tick() + pause * (retryAfter > 0 ? 1 + Math.random() / 4 : 0.75 + Math.random() / 2)
      if (retryAfter > 0) askedUntil = pausedUntil
      if (status >= 200 && status < 300 && !isForeign) {
        isForeign = true
        warn(`the answer ${status} is not the edge's, so events are kept; do all paths of the script lead to the edge?`)
      }
      log("not sent", problem || status, "again in", pausedUntil - tick(), "ms")
    }
    waiting.sort((one, other) => one.number - other.number)
    write()
    clearTimeout(timer)
    timer = 0
    if (waiting.length) later(0)
  }

  // Takes over what pages that ended did not get acknowledged.
  function adopt() {
    if (left) return
    for (const record of namesFrom(prefix)) {
      if (record === own) continue
      const found = readJson(record)
      // what the server asked of another page holds here too
      if (found?.asked > 0) {
        askedUntil = Math.max(askedUntil, tick() + Math.min(found.at + found.asked - Date.now(), found.asked, LONGEST_ASKED_PAUSE))
        pausedUntil = Math.max(pausedUntil, askedUntil)
      }
      if (found && !found.left && Math.abs(Date.now() - found.at) < STALE_MILLISECONDS) continue
      const events = Array.isArray(found?.events) ? found.events : []
      waiting.push(...events.map((event) => itemOf(toText(event))))
      // ours first: a page that ends between the two leaves them twice, not nowhere
      write()
      forget(record)
      // there was no room for both
      if (!kept) write()
    }
    if (waiting.length) later(0)
  }

  function claim() {
    // of several pages one at a time; without locks two may send the same events, which count once
    if (navigator.locks) navigator.locks.request(name, adopt).catch(adopt)
    else adopt()
  }

  function leave() {
    left = true
    write()
    pump(true)
  }

  function hide() {
    if (document.visibilityState !== "hidden") return
    if (soon) write()
    pump(true)
  }

  function comeBack() {
    if (!left) return
    left = false
    // another page may have taken them over meanwhile
    if (read(own) === null && kept) waiting = []
    write()
    claim()
    later(0)
  }

  function wake() {
    pausedUntil = askedUntil
    clearTimeout(timer)
    timer = 0
    pump()
  }

  addEventListener("pagehide", leave)
  addEventListener("pageshow", comeBack)
  addEventListener("online", wake)
  document.addEventListener("visibilitychange", hide)
  addEventListener("storage", ({ key, newValue }) => {
    if (key && key !== own && key.startsWith(prefix) && newValue?.includes('"left":true')) claim()
  })
  claim()
  const watch = setInterval(claim, STALE_MILLISECONDS)

  return {
    push,
    wake,
    // Resolves once nothing waits.
    flush() {
      wake()
      return all().length ? new Promise((done) => idle.push(done)) : Promise.resolve()
    },
    // Throws everything away, also of other pages.
    clear() {
      waiting = []
      flying.clear()
      write()
      namesFrom(prefix).forEach(forget)
    },
    size: () => all().length,
    stop: () => clearInterval(watch),
  }
}

// Reads what the edge says of a batch. A network that asks for a log-in, a proxy and a worker of the page answer 200 too.
export async function heard(answer) {
  const said = await answer.json().catch(() => null)
  return { status: answer.status, ours: typeof (answer.ok ? said?.success : said?.code) === (answer.ok ? "boolean" : "string"), problem: said?.message }
}

// Sends a batch by fetch; it outlives the page where the browser lets it.
export function fetchTransport(url, key) {
  let busy = false
  let failed = false
  const outlives = "keepalive" in Request.prototype
  return {
    room: () => (busy ? 0 : 1),
    async send(texts, bytes, leaving) {
      const body = `{"writeKey":${JSON.stringify(key)},"sentAt":"${new Date().toISOString()}","batch":[${texts.join()}]}`
      if (leaving && !outlives && navigator.sendBeacon) {
        navigator.sendBeacon(url, body)
        return { status: 0 }
      }
      busy = true
      try {
        const answer = await fetch(url, {
          method: "POST",
          body,
          credentials: "omit",
          // scripts of the page share the room of such requests, and may leave none
          keepalive: leaving || (bytes <= BATCH_BYTES && !failed),
          signal: AbortSignal.timeout?.(30000),
        })
        failed = false
        const after = answer.headers.get("Retry-After")
        return { ...(await heard(answer)), retryAfter: +after || (Date.parse(after) - Date.now()) / 1000 || 0 }
      } catch (error) {
        failed = !failed
        return { status: 0, problem: error.message }
      } finally {
        busy = false
      }
    },
  }
}
