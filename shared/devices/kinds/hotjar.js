// Hotjar. Options: shared/devices/kinds/hotjar.py.

const MOST_WAITING = 1000
const MOST_NAME = 250
let site = null
let told = false

export async function load(options, tools) {
  if (site && site !== options.site_id) throw new Error(`this page records for ${site} already`)
  site = options.site_id
  if (!window.hj) {
    window.hj = function () {
      ;(window.hj.q = window.hj.q || []).push(arguments)
    }
    window._hjSettings = { hjid: options.site_id, hjsv: options.version }
    const own = `https://static.hotjar.com/c/hotjar-${options.site_id}.js?sv=${options.version}`
    loading = tools.script(options.script || own, options.integrity ? { integrity: options.integrity, crossorigin: "anonymous" } : {})
  }
  // Hotjar itself tells the address that the page has now
  let path = location.pathname + location.search
  await loading
  const hj = (...words) => window.hj(...words)
  let user
  const handle = (event) => {
    if (window.hj.q?.length > MOST_WAITING) {
      if (told) return
      told = true
      throw new Error("the vendor's script does not take its events; further ones are left out")
    }
    const userId = event.userId ? String(event.userId) : null
    if (event.type === "identify") hj("identify", userId, plain(event.traits))
    else if (userId && userId !== user) hj("identify", userId, {})
    user = userId
    if (event.type === "track") hj("event", spelt(event.event))
    if (event.type === "page" && options.pages) {
      const now = pathOf(event)
      if (now && now !== path) hj("stateChange", now)
      path = now || path
    }
  }
  handle.reset = () => (user = undefined)
  return handle
}

let loading

function pathOf(event) {
  try {
    const url = new URL(event.properties?.url || event.context?.page?.url, location.href)
    return url.pathname + url.search
  } catch {
    return ""
  }
}

function spelt(name) {
  return String(name).slice(0, MOST_NAME).replace(/[^\w -]/g, "_")
}

function plain(traits) {
  const found = Object.entries(traits || {}).filter(([, value]) => value !== undefined && value !== null)
  return Object.fromEntries(found.map(([key, value]) => [key, typeof value === "object" ? JSON.stringify(value) : value]))
}
