// Begins in a page: by the attributes of the script's own element, or by a snippet that collected calls in `window.analytics`.

import { createAnalytics } from "./analytics.mjs"

// an element of the page that is named so hides it (`<img name="currentScript">`)
const OWN = document.currentScript instanceof HTMLScriptElement ? document.currentScript : null
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
  const given = attributes(OWN)
  const global = given.global || given.globalSegmentAnalyticsKey || "analytics"
  const stub = window[global]
  if (stub?.initialized) return
  const url = new URL(OWN?.src || location.href)
  const fromPath = SEGMENT.exec(url.pathname)
  const host = url.origin + (fromPath ? "/p" : url.pathname.replace(/\.m?js$/, ""))
  const isArray = Array.isArray(stub)
  const options = {
    host,
    nonce: OWN?.nonce || "",
    key: fromPath ? decodeURIComponent(fromPath[1]) : stub?._writeKey || url.searchParams.get("key"),
    ...(isArray && stub._loadOptions),
    ...given,
  }
  const calls = isArray ? stub.splice(0) : []

  const load = (key, more) => {
    const analytics = createAnalytics({ ...options, ...more, key })
    const perform = ([name, ...words]) => {
      if (name === "load") return
      if (typeof analytics[name] === "function") analytics[name](...words)
      else console.warn(`[penstock] there is no analytics.${name}`)
    }
    window[global] = analytics
    calls.splice(0).forEach(perform)
    // for code that kept the array of the snippet
    if (isArray) stub.push = (...more) => more.forEach(perform)
    if (given.key && given.page !== false && given.page !== "off") analytics.page()
    if (typeof given.onload === "string" && typeof window[given.onload] === "function") window[given.onload](analytics)
    return analytics
  }

  const asked = calls.find(([name]) => name === "load")
  const key = options.key || asked?.[1]
  if (key) load(key, asked?.[2])
  else window[global] = Object.assign(stub || [], { load })
}

// a page that the browser loads on suspicion is no visit yet
if (document.prerendering) document.addEventListener("prerenderingchange", start, { once: true })
else start()
