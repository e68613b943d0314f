// Begins in a page: by the attributes of the script's own element, or by a snippet that collected calls in `window.analytics`.

import { createAnalytics } from "./analytics.mjs"

// an element of the page that is named so hides it (`<img name="currentScript">`)
const OWN = document.currentScript instanceof HTMLScriptElement ? document.currentScript : null
// a module, and a script that a loader fetched and ran, do not know their element
const elementOf = (stub) => OWN || (stub?._writeKey ? null : document.querySelector("script[data-key][src]"))
const SEGMENT = /^\/analytics\.js\/v1\/([^/]+)\/analytics(\.min)?\.js$/

function attributes(element) {
  const found = {}
  for (const [name, text] of Object.entries(element?.dataset ?? {})) {
    const isValue = /^(true|false|null|-?\d+|[[{].*)$/s.test(text) && name !== "key"
    try {
      found[name] = isValue ? JSON.parse(text) : text
    } catch {
      found[name] = text
    }
  }
  return found
}

function start() {
  const own = elementOf(window.analytics)
  const given = attributes(own)
  const global = given.global || given.globalSegmentAnalyticsKey || "analytics"
  const stub = window[global]
  if (stub?.initialized) {
    const { key } = stub.options || {}
    if (given.key && given.key !== key) console.warn(`[penstock] window.${global} is that of ${key}; name another for ${given.key} by data-global`)
    return
  }
  const url = new URL(own?.src || location.href)
  const fromPath = SEGMENT.exec(url.pathname)
  const host = url.origin + (fromPath ? "/p" : url.pathname.replace(/\.m?js$/, ""))
  const isArray = Array.isArray(stub)
  const options = {
    host,
    nonce: own?.nonce || "",
    key: fromPath ? decodeURIComponent(fromPath[1]) : stub?._writeKey || url.searchParams.get("key"),
    ...(isArray && stub._loadOptions),
    ...given,
  }
  const calls = isArray ? stub.splice(0) : []

  const load = (key, more) => {
    const analytics = createAnalytics({ ...options, ...more, key })
    const perform = (call) => {
      try {
        const [name, ...words] = call
        if (name === "load") return
        if (typeof analytics[name] === "function") analytics[name](...words)
        else console.warn(`[penstock] there is no analytics.${name}`)
      } catch (error) {
        console.warn("[penstock] a call is left out:", call, error)
      }
    }
    if (stub && !isArray) console.warn(`[penstock] window.${global} was something else; name another variable by data-global to keep it`)
    window[global] = analytics
    calls.splice(0).forEach(perform)
    // for code that runs after the script, or kept the array of the snippet
    analytics.push = (...more) => more.forEach(perform)
    if (isArray) stub.push = analytics.push
    if (given.key && given.page !== false && given.page !== "off") analytics.page()
    if (typeof given.onload === "string" && typeof window[given.onload] === "function") window[given.onload](analytics)
    return analytics
  }

  const asked = calls.find((call) => call?.[0] === "load")
  const key = options.key || asked?.[1]
  if (key) load(key, asked?.[2])
  else window[global] = Object.assign(stub || [], { load })
}

// a page that the browser loads on suspicion is no visit yet
if (document.prerendering) document.addEventListener("prerenderingchange", start, { once: true })
else start()
