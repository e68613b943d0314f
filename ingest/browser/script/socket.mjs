// Sends batches over one WebSocket (docs/protocols/websocket.md): several under way at once, each acknowledged by its id.
// What has no acknowledgement when the connection ends is sent again with the same messageIds. A page that ends sends by fetch.

const AGAIN = new Set(["unavailable", "overloaded", "rate_limited", "credit_exceeded", "closing", "internal"])
const TOO_LARGE = new Set(["too_large", "too_many_events", "context_too_large"])
const FAILURES_BEFORE_FETCH = 3
const FETCH_MILLISECONDS = 300000
const HELLO_MILLISECONDS = 15000

export function socketTransport({ base, key, byFetch, log, wake }) {
  const url = base.replace(/^http/, "ws").replace(/^(wss?:\/\/[^/]+).*$/, "$1/v1/ws")
  const pending = new Map()
  let socket = null
  let credit = 0
  let number = 0
  let failures = 0
  let fetchUntil = 0

  function connect() {
    const text = btoa(String.fromCharCode(...new TextEncoder().encode(key)))
    const offered = text.replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "")
    const opened = new WebSocket(url, ["penstock.v1", "key." + offered])
    const limit = setTimeout(() => opened.close(), HELLO_MILLISECONDS)
    socket = opened
    opened.onmessage = ({ data }) => {
      const message = JSON.parse(data)
      if (message.credit) credit = message.credit
      if (message.hello) {
        clearTimeout(limit)
        failures = 0
        log("socket open, credit", credit)
        wake()
      } else if ("ack" in message) {
        finish(message.ack, { status: 200, ours: true })
      } else if (message.error) {
        const { error, id, retry_after: retryAfter } = message
        const status = AGAIN.has(error) ? 503 : TOO_LARGE.has(error) ? 413 : 400
        if (id != null) finish(id, { status, ours: true, retryAfter, problem: message.message })
      }
    }
    opened.onclose = () => {
      clearTimeout(limit)
      if (socket === opened) socket = null
      credit = 0
      if (++failures >= FAILURES_BEFORE_FETCH) {
        log("no socket, events go by fetch for a while")
        fetchUntil = performance.now() + FETCH_MILLISECONDS
        failures = 0
      }
      const lost = [...pending.keys()]
      for (const id of lost) finish(id, { status: 0, problem: "the connection ended" })
      if (!lost.length) setTimeout(wake, 1000 * failures)
    }
  }

  function finish(id, answer) {
    pending.get(id)?.(answer)
    pending.delete(id)
  }

  addEventListener("pagehide", () => socket?.close())

  return {
    room() {
      if (performance.now() < fetchUntil) return byFetch.room()
      if (!socket) connect()
      return credit
    },
    send(texts, bytes, leaving) {
      if (leaving || socket?.readyState !== WebSocket.OPEN) return byFetch.send(texts, bytes, leaving)
      return new Promise((done) => {
        const id = ++number
        pending.set(id, done)
        socket.send(`{"id":${id},"sentAt":"${new Date().toISOString()}","batch":[${texts.join()}]}`)
      })
    },
  }
}
