// Stands in for fbevents.js: sets `callMethod`, takes the queue, and holds tracks back while consent is revoked.
// https://developers.facebook.com/docs/meta-pixel/implementation/gdpr
;(() => {
  window.loads = (window.loads || 0) + 1
  const fbq = window.fbq
  const pixels = new Set()
  const waiting = []
  let revoked = false
  window.told = []
  window.sent = []
  fbq.callMethod = (...words) => {
    window.told.push(words)
    const [verb, id] = words
    if (verb === "init") pixels.add(id)
    if (verb === "consent") {
      revoked = id === "revoke"
      if (!revoked) window.sent.push(...waiting.splice(0))
    }
    if (verb.startsWith("trackSingle")) {
      if (!pixels.has(id)) throw new Error("no such pixel " + id)
      ;(revoked ? waiting : window.sent).push(words)
    }
  }
  fbq.queue.splice(0).forEach((words) => fbq.callMethod(...words))
})()
