// Google Tag Manager. Options: shared/devices/kinds/gtm.py.

const OWN = ["properties", "traits", "ecommerce"]
const MOST_WAITING = 1000
let told = false

export async function load(options, tools) {
  const { consentMode, nameOf, parametersOf } = await import(
    /* @vite-ignore */ /* webpackIgnore: true */ new URL("ga4_tag.js" + new URL(import.meta.url).search, import.meta.url).href
  )
  const layer = (window[options.data_layer] ||= [])
  // consent is an `arguments` object in the data layer, as gtag makes it
  const consent = consentMode(options.consent_mode, function () {
    layer.push(gtag("consent", ...arguments))
  })
  if (options.load_container && !window.google_tag_manager?.[options.container_id]) {
    layer.push({ "gtm.start": Date.now(), event: "gtm.js" })
    await tools.script(options.script || address(options), options.integrity ? { integrity: options.integrity, crossorigin: "anonymous" } : {})
  }
  // the data layer merges: what it has of the event before, it would show with this one
  let before = []
  const empty = (keys) => layer.push(Object.fromEntries(keys.map((key) => [key, null])))
  const handle = (event) => {
    if (layer.length > MOST_WAITING && !window.google_tag_manager) {
      if (told) return
      told = true
      throw new Error("the vendor's script does not take its events; further ones are left out")
    }
    consent(event.context?.consent?.categoryPreferences)
    const found = pushed(event, options, nameOf, parametersOf)
    if (before.length) empty([...OWN, ...before.filter((key) => !OWN.includes(key) && !Object.hasOwn(found, key))])
    before = Object.keys(found)
    layer.push(found)
  }
  // tags that fire before the next event must not meet the visitor of before
  handle.reset = () => {
    if (before.length) empty([...OWN, ...before.filter((key) => !OWN.includes(key) && key !== "event")])
    before = []
  }
  handle.consent = (may, granted) => consent.decide(may || Object.keys(options.consent_mode).length ? granted : false)
  return handle
}

function gtag() {
  return arguments
}

function pushed(event, options, nameOf, parametersOf) {
  const { type, messageId, timestamp, userId, anonymousId, groupId, previousId, name, category, properties, traits, context } = event
  const told = { type, messageId, timestamp, userId, anonymousId, groupId, previousId, name, category, properties, traits, page: context?.page }
  const named = String(type === "track" ? event.event : type)
  const found = { event: named, ...Object.fromEntries(Object.entries(told).filter(([, value]) => value !== undefined)) }
  const google = options.ecommerce && type === "track" ? nameOf(event, {}) : ""
  if (google) {
    const { page_location, page_referrer, page_title, ...ecommerce } = parametersOf(event, google)
    if (ecommerce.items || ecommerce.transaction_id) Object.assign(found, { event: google, ecommerce })
  }
  return found
}

function address({ container_id, data_layer, environment_auth, environment_preview }) {
  const query = new URLSearchParams({ id: container_id })
  if (data_layer !== "dataLayer") query.set("l", data_layer)
  if (environment_auth) {
    query.set("gtm_auth", environment_auth)
    query.set("gtm_preview", environment_preview)
    query.set("gtm_cookies_win", "x")
  }
  return `https://www.googletagmanager.com/gtm.js?${query}`
}
