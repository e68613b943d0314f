// Hands events to device destinations: vendors' scripts in this page. Loaded where the site has such connections.
//
// Each device gets each event once, in order, and waits for itself only. docs/devices.md is the contract.

import { passes } from "./where.mjs"

const MOST_WAITING = 1000

// A page with trusted types allows this policy by its name. Without it the page's default policy decides, if it has one.
function trustedTypesPolicy() {
  const same = (text) => text
  try {
    return window.trustedTypes?.createPolicy("penstock", { createHTML: same, createScript: same, createScriptURL: same })
  } catch {
    return undefined
  }
}

export function startDevices({ devices, base, nonce, warn, log, user }) {
  const scripts = new Map()
  const policy = trustedTypesPolicy()
  const trusted = (kind, text) => (policy ? policy["create" + kind](text) : text)
  const tools = {
    nonce,
    trusted,
    log,
    user,
    script(url, attributes = {}) {
      if (!scripts.has(url)) {
        scripts.set(
          url,
          new Promise((done, failed) => {
            const element = document.createElement("script")
            element.async = true
            for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value)
            if (nonce) element.nonce = nonce
            element.onload = () => done(element)
            element.onerror = () => failed(new Error(`${url} does not load: blocked, or not allowed by the page's policy`))
            element.src = trusted("ScriptURL", url)
            ;(document.head || document.documentElement).append(element)
          }),
        )
      }
      return scripts.get(url)
    },
  }
  const lanes = devices.map((device) => lane(device, base, tools, warn))
  // An event; null: the visitor is another one from here; undefined: what the visitor grants from here, true, false or categories.
  return (...words) => lanes.forEach((take) => take(...words))
}

function lane(device, base, tools, warn) {
  let waiting = 0
  let chain = null
  let isFull = false
  let isFresh = false
  let refusals = 0
  let wanted = 0
  return (event, granted) => {
    if (event === undefined) {
      const may = granted !== false && !refuses(device.consent, { consent: { categoryPreferences: granted } })
      // what waits for the vendor goes nowhere
      if (!may) {
        refusals++
        wanted = 0
      }
      return inTurn("does not hear of consent", (handle) => handle.consent?.(may, granted))
    }
    if (!event) {
      isFresh = !chain
      return inTurn("does not forget the visitor", begin)
    }
    if (!wants(device, event)) return
    if (waiting >= MOST_WAITING) {
      if (!isFull) warn(`${device.name}: ${MOST_WAITING} events wait for it; further ones are left out`)
      isFull = true
      return
    }
    // as the edge gets it: options of the page may hold what only JSON leaves out, such as functions
    const copy = JSON.parse(JSON.stringify(event))
    waiting++
    wanted++
    if (!chain) {
      chain = import(/* @vite-ignore */ /* webpackIgnore: true */ new URL(device.src, base).href).then((module) => {
        if (wanted) return module.load(device.options, tools)
        // the visitor refused meanwhile, and does not meet the vendor
        chain = null
        throw null
      })
      if (isFresh) inTurn("does not forget the visitor", begin)
    }
    const before = refusals
    chain = chain.then(
      async (handle) => {
        waiting--
        if (refusals > before) return handle
        try {
          await handle(copy)
        } catch (error) {
          warn(`${device.name}: fails on ${event.messageId}:`, error)
        }
        return handle
      },
      (error) => {
        waiting--
        if (error) warn(`${device.name}: does not load:`, error)
        throw null
      },
    )
    chain.catch(() => 0)
  }

  function begin(handle) {
    handle.reset?.()
  }

  function inTurn(failure, act) {
    chain = chain?.then((handle) => {
      try {
        act(handle)
      } catch (error) {
        warn(`${device.name}: ${failure}:`, error)
      }
      return handle
    }) ?? null
    chain?.catch(() => 0)
  }
}

// As shared/rules/consent.py: Segment's form, and RudderStack's.
function refuses(wanted, { consent, consentManagement: managed }) {
  const granted = consent?.categoryPreferences
  if (isObject(granted) && wanted.some((category) => granted[category] !== true)) return true
  if (!isObject(managed)) return false
  const { deniedConsentIds: denied, allowedConsentIds: allowed, resolutionStrategy } = managed
  const missing = wanted.filter(
    (category) =>
      (Array.isArray(denied) && denied.includes(category)) ||
      (Array.isArray(allowed) && allowed.length && !allowed.includes(category)),
  )
  return missing.length > 0 && (missing.length === wanted.length || !["or", "any"].includes(resolutionStrategy))
}

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value)

export function wants(device, event) {
  if (refuses(device.consent, event.context || {})) return false
  const asked = event.integrations
  if (device.integrations && asked) {
    const said = (name) => Object.hasOwn(asked, name) ? asked[name] : undefined
    if (device.names.some((name) => said(name) === false)) return false
    if ((asked.All === false || asked.all === false) && !device.names.some(said)) return false
  }
  try {
    return passes(device.where, event)
  } catch {
    return false
  }
}
