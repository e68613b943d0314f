// The calls of a page: page, track, identify, group, alias, screen, reset, ready, consent, user, flush.

import { contextOf } from "./context.mjs"
import { createPerson } from "./person.mjs"
import { createQueue, fetchTransport, heard } from "./queue.mjs"
import { forget, keep, namesFrom, newId, read, toText } from "./storage.mjs"

// replaced by the edge when it serves the script
export const VERSION = "0.1.0"
const BUILD = ""
const LIBRARY = { name: "penstock.js", version: VERSION }
const NAMED = { track: "event", page: "name", screen: "name" }
const MOST_HELD = 1000
const SETTINGS_PAUSES = [2000, 10000, 60000]
const DAY_MILLISECONDS = 86400000

// `host` is where the edge is: https://events.example.com, or with the path of the site: https://events.example.com/assets/shop
export function baseOf(host) {
  const url = new URL(/^(https?:)?\/\//.test(host) ? host : `https://${host}`, location.href)
  return url.origin + (url.pathname.replace(/\/+$/, "") || "/p")
}

export function createAnalytics(options) {
  const { key, nonce = "", debug = false, defaultContext, integrations: always } = options
  const base = baseOf(options.host)
  const queueName = "penstock_queue." + key
  const warn = (...words) => console.warn("[penstock]", ...words)
  let log = (...words) => debug && console.debug("[penstock]", ...words)
  const person = createPerson(options)
  const middlewares = []
  const listeners = {}
  let gate = "wait"
  let preferences = null
  let held = []
  let queue = null
  let dispatch = null
  let forDevices = []
  let settingsFound = null
  let hasBegun = false
  let isReady = false
  const readyCalls = []

  function open() {
    let transport = fetchTransport(base + "/e", key)
    if (options.transport === "websocket") {
      const load = options.loadSocket || (() => import(/* @vite-ignore */ /* webpackIgnore: true */ `${base}/m/socket.mjs${BUILD}`))
      transport = lazy(transport, load)
    }
    queue ??= createQueue({ name: queueName, transport, delay: options.flushAfter ?? 200, log, warn })
  }

  // Until the socket's module is there, nothing goes; without it everything goes by fetch.
  function lazy(byFetch, load) {
    let current = { room: () => 0, send: byFetch.send }
    load().then(
      (module) => (current = module.socketTransport({ base, key, byFetch, log, wake: () => queue.wake() })),
      (error) => {
        warn("the WebSocket module does not load, events go by fetch:", error)
        current = byFetch
      },
    ).then(() => queue.wake())
    return { room: () => current.room(), send: (...batch) => current.send(...batch) }
  }

  function emit(type, ...words) {
    for (const listener of listeners[type] || []) {
      try {
        listener(...words)
      } catch (error) {
        warn("a listener fails:", error)
      }
    }
  }

  function pass(event) {
    if (preferences) (event.context.consent ??= {}).categoryPreferences ??= preferences
    if (event.integrations?.["Penstock"] !== false) queue.push(event)
    hand(event)
  }

  // To device destinations, as `startDevices` takes it.
  function hand(...words) {
    if (dispatch) dispatch(...words)
    else if (forDevices) {
      forDevices.push(words)
      if (forDevices.length > MOST_HELD) forDevices.shift()
    }
  }

  function take(event) {
    const run = (index, obj) => {
      if (!obj) return
      if (index < middlewares.length) return middlewares[index]({ payload: { obj, type: () => obj.type }, next: (next) => run(index + 1, next?.obj || next) })
      if (gate === "open") pass(obj)
      else if (gate === "wait") {
        held.push(obj)
        if (held.length > MOST_HELD) held.shift()
      }
    }
    run(0, event)
    return event
  }

  function make(type, fields, call = {}, seen) {
    const { context, integrations, callback, ...rest } = call || {}
    const said = person.said()
    const event = {
      type,
      messageId: newId(),
      timestamp: new Date().toISOString(),
      anonymousId: person.anonymousId(),
      ...(said.userId && { userId: said.userId }),
      ...fields,
      ...rest,
      context: { ...contextOf(LIBRARY, seen), ...(said.groupId && { groupId: said.groupId }), ...defaultContext, ...context },
    }
    if (always || integrations) event.integrations = { ...always, ...integrations }
    for (const name of Object.keys(event)) if (event[name] === undefined) delete event[name]
    return event
  }

  // Values that JSON does not hold must fail here, in the caller's place, and not later.
  const copy = (value) => (value === undefined ? undefined : JSON.parse(toText(value)))

  // A call must never break the page that makes it.
  function call(type, words) {
    try {
      return Promise.resolve(send(type, [...words]))
    } catch (error) {
      warn(`${type} is left out:`, error)
      return Promise.resolve(null)
    }
  }

  function send(type, words) {
    const seen = words.at(-1)?.__t === "bpc" ? words.pop() : null
    const callback = typeof words.at(-1) === "function" ? words.pop() : null
    const page = seen && { path: seen.p, url: seen.c || seen.u, search: seen.s, title: seen.t, referrer: seen.r }
    const event = take(make(type, ...fieldsOf(type, words), page))
    emit(type, event)
    if (callback) setTimeout(callback, 0, event)
    return event
  }

  // An event without its name is one that the edge refuses with a reason.
  const textOf = (value) => (value == null ? undefined : String(value))

  function fieldsOf(type, words) {
    const texts = []
    while (words.length && texts.length < 2 && (typeof words[0] === "string" || typeof words[0] === "number" || words[0] == null)) texts.push(words.shift())
    const [body, extra] = words.map(copy)
    switch (type) {
      case "identify": {
        const userId = textOf(texts[0])
        const before = person.said().userId
        if (userId && before && before !== userId) person.reset()
        person.identify(userId, body)
        return [{ traits: { ...person.said().traits } }, extra]
      }
      case "group":
        if (texts[0] != null) person.group(String(texts[0]), body)
        return [{ groupId: person.said().groupId, traits: body || {} }, extra]
      case "alias":
        return [{ userId: textOf(texts[0]), previousId: String(texts[1] ?? person.said().userId ?? person.anonymousId()) }, body]
      case "track":
        return [{ event: textOf(texts[0]), properties: body || {} }, extra]
      default: {
        const name = texts.pop()
        return [{ name: name ?? undefined, category: texts[0] ?? undefined, properties: { ...body } }, extra]
      }
    }
  }

  function onEach(elements, type, event, properties) {
    for (const element of elements?.nodeType ? [elements] : elements || []) {
      element.addEventListener(type, () => {
        const name = typeof event === "function" ? event(element) : event
        call("track", [name, typeof properties === "function" ? properties(element) : properties])
      })
    }
    return self
  }

  async function settings() {
    if (options.settings) return options.settings
    for (let turn = 0; ; turn++) {
      try {
        const answer = await fetch(`${base}/s/${encodeURIComponent(key)}`, { credentials: "omit" })
        if (answer.ok) return await answer.json()
        if (answer.status < 500 && answer.status !== 429) throw null
      } catch (error) {
        if (!error || turn >= SETTINGS_PAUSES.length) return warn("no settings: is the key right?", key), {}
      }
      await new Promise((done) => {
        setTimeout(done, SETTINGS_PAUSES[turn])
        addEventListener("online", done, { once: true })
      })
    }
  }

  // Not before the visitor consents: until then the page asks for nothing.
  async function begin() {
    hasBegun = true
    const found = await settings()
    try {
      if (found.devices?.length) {
        const load = options.loadDevices || (() => import(/* @vite-ignore */ /* webpackIgnore: true */ `${base}/m/devices.mjs${BUILD}`))
        const module = await load()
        const user = () => ({ ...person.said(), anonymousId: person.anonymousId() })
        const made = module.startDevices({ devices: found.devices, base: base + "/", nonce, warn, log, user })
        dispatch = made
        forDevices.splice(0).forEach((words) => made(...words))
      } else dispatch = () => 0
    } catch (error) {
      warn("device destinations do not load:", error)
    }
    forDevices = null
    isReady = true
    settingsFound = found
    person.settle(found.cookie?.domain)
    if (gate === "open") askForCookie(found)
    readyCalls.splice(0).forEach((done) => done())
  }

  // Browsers that forget a script's cookie after a week keep a server's.
  async function askForCookie(found) {
    if (!found?.cookie || options.cookie === false) return
    const day = String(Math.floor(Date.now() / DAY_MILLISECONDS))
    const mark = `${day} ${person.anonymousId()}`
    if (read("penstock_cookie") === mark) return
    try {
      const body = JSON.stringify({ writeKey: key, anonymousId: person.anonymousId() })
      const answer = await fetch(base + "/i", { method: "POST", body, credentials: "include" })
      if (!answer.ok || !(await heard(answer)).ours) return
      keep("penstock_cookie", mark)
      person.settle()
    } catch (error) {
      log("no cookie of the server:", error)
    }
  }

  const self = {
    VERSION,
    initialized: true,
    options,
    page: (...words) => call("page", words),
    screen: (...words) => call("screen", words),
    track: (...words) => call("track", words),
    identify: (...words) => call("identify", words),
    group: (...words) => call("group", words),
    alias: (...words) => call("alias", words),
    trackLink: (elements, ...words) => onEach(elements, "click", ...words),
    trackForm: (elements, ...words) => onEach(elements, "submit", ...words),
    reset() {
      person.reset()
      hand(null)
      if (gate === "open") askForCookie(settingsFound)
      emit("reset")
    },
    ready(done) {
      const promise = isReady || !hasBegun ? Promise.resolve() : new Promise((resolve) => readyCalls.push(resolve))
      return done ? promise.then(done) : promise
    },
    // true or categories: events that waited go on, with the categories. false: they are thrown away, and the browser forgets the visitor.
    consent(given) {
      if (given === false) {
        gate = "shut"
        held = []
        if (forDevices) forDevices = []
        hand(undefined, false)
        preferences = null
        if (queue) queue.clear()
        // what pages before this one left
        else namesFrom(queueName + ".").forEach(forget)
        forget("penstock_cookie")
        person.forget()
        return self
      }
      preferences = typeof given === "object" && given ? { ...given } : null
      hand(undefined, preferences ?? true)
      if (gate !== "open") {
        gate = "open"
        person.remember()
        open()
        if (!hasBegun) begin()
        const id = person.anonymousId()
        for (const event of held.splice(0)) {
          try {
            pass({ ...event, anonymousId: id })
          } catch (error) {
            warn(`${event.type} is left out:`, error)
          }
        }
        if (settingsFound) askForCookie(settingsFound)
      }
      return self
    },
    user: () => ({
      id: () => person.said().userId ?? null,
      traits: () => person.said().traits ?? {},
      anonymousId: (id) => (id && person.setAnonymousId(id), person.anonymousId()),
    }),
    setAnonymousId: (id) => (person.setAnonymousId(String(id)), self),
    addSourceMiddleware: (middleware) => (middlewares.push(middleware), self),
    on: (type, listener) => ((listeners[type] ??= []).push(listener), self),
    off: (type, listener) => ((listeners[type] = (listeners[type] || []).filter((each) => each !== listener)), self),
    debug: (on = true) => ((log = (...words) => on && console.debug("[penstock]", ...words)), self),
    // Resolves once the server has everything.
    flush: () => (queue ? queue.flush() : Promise.resolve()),
    waiting: () => held.length + (queue ? queue.size() : 0),
  }
  self.trackClick = self.trackLink
  self.trackSubmit = self.trackForm
  const { consent = true } = options
  if (consent === "wait") gate = "wait"
  else self.consent(consent)
  return self
}
