// Microsoft Clarity. Options: shared/devices/kinds/clarity.py.

const MOST_WAITING = 1000
const MOST_LETTERS = 255
let project = null
let loading
let told = false

export async function load(options, tools) {
  if (project && project !== options.project_id) throw new Error(`this page records for ${project} already`)
  project = options.project_id
  if (!window.clarity) {
    window.clarity = function () {
      ;(window.clarity.q = window.clarity.q || []).push(arguments)
    }
    const own = "https://www.clarity.ms/tag/" + options.project_id
    loading = tools.script(options.script || own, options.integrity ? { integrity: options.integrity, crossorigin: "anonymous" } : {})
  }
  const clarity = (...words) => window.clarity(...words)
  const storages = Object.entries(options.consent_mode)
  let last = ""
  const consent = (granted) => {
    const now = Object.fromEntries(storages.map(([name, categories]) => [name, categories.every((each) => granted[each] === true) ? "granted" : "denied"]))
    if (storages.length && JSON.stringify(now) !== last) clarity("consentv2", now)
    last = JSON.stringify(now)
  }
  consent({})
  await loading
  let isTakenBack = false
  const handle = (event) => {
    if (window.clarity.q?.length > MOST_WAITING) {
      if (told) return
      told = true
      throw new Error("the vendor's script does not take its events; further ones are left out")
    }
    const granted = event.context?.consent?.categoryPreferences
    if (granted && typeof granted === "object") consent(granted)
    // Clarity asks for it on each page
    if (event.userId && (event.type === "identify" || event.type === "page")) clarity("identify", cut(event.userId))
    const values = { ...event.properties, ...event.traits }
    for (const tag of options.tags) if (Object.hasOwn(values, tag) && values[tag] != null) clarity("set", cut(tag), valuesOf(values[tag]))
    if (event.type === "track") clarity("event", cut(event.event))
  }
  handle.consent = (may, granted) => {
    if (may) {
      if (storages.length) typeof granted === "object" && consent(granted)
      else if (isTakenBack) clarity("consentv2", { ad_Storage: granted === true ? "granted" : "denied", analytics_Storage: "granted" })
    } else if (!isTakenBack) {
      // Clarity removes its cookies and begins again without
      clarity("consent", false)
      last = ""
    }
    isTakenBack = !may
  }
  return handle
}

function valuesOf(value) {
  return Array.isArray(value) ? value.map(cut) : cut(value)
}

function cut(value) {
  return (typeof value === "object" ? JSON.stringify(value) : String(value)).slice(0, MOST_LETTERS)
}
