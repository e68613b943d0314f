// Any HTML or script, for each event. Options: html, script, load, revoke (shared/devices/kinds/tag.py).

const HOLE = /\{\{\s*event((?:\.[\w$ -]+)*)\s*\}\}/g
const ADDRESSES = new Set(["src", "href", "action", "formaction", "poster", "data", "xlink:href", "srcset"])
const LOADERS = new Set(["script", "iframe", "frame", "object", "embed", "link", "base"])
const OWN_HOST = /^\s*((https?:)?\/\/[^/{]+)?\/[^/{]/

// Values go into the parsed document, never into markup: an event must not be able to write elements.
export function load(options, tools) {
  const build = options.html ? parsed(options.html, tools) : null
  if (options.load) put(parsed(options.load, tools), null, tools)
  const handle = (event) => {
    if (build) put(build, event, tools)
    if (options.script) run(`(function (event) {${filled(options.script, event, json)}\n})(${json(event)})`, tools)
  }
  handle.consent = (may) => {
    if (!may && options.revoke) run(`(() => {${options.revoke}\n})()`, tools)
  }
  return handle
}

function parsed(html, tools) {
  const template = document.createElement("template")
  template.innerHTML = tools.trusted("HTML", html)
  // a template reads as if the page had no scripts: its images would load beside what the scripts do
  for (const element of template.content.querySelectorAll("noscript")) element.remove()
  return template.content
}

function put(content, event, tools) {
  const copy = document.importNode(content, true)
  const scripts = []
  const walker = document.createTreeWalker(copy, NodeFilter.SHOW_ELEMENT | NodeFilter.SHOW_TEXT)
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    if (node.nodeType === Node.TEXT_NODE) {
      if (event && !inScript(node)) node.data = filled(node.data, event, text)
    } else {
      if (event) fillAttributes(node, event, tools)
      if (node.localName === "script") scripts.push(node)
    }
  }
  // a parsed script never runs: one made by hand does
  for (const old of scripts) {
    const fresh = document.createElement("script")
    for (const { name, value } of old.attributes) fresh.setAttribute(name, name === "src" ? tools.trusted("ScriptURL", value) : value)
    if (tools.nonce) fresh.nonce = tools.nonce
    if (!old.hasAttribute("async")) fresh.async = false
    fresh.text = tools.trusted("Script", event ? filled(old.text, event, json) : old.text)
    old.replaceWith(fresh)
  }
  ;(document.body || document.documentElement).append(copy)
}

function fillAttributes(element, event, tools) {
  for (const { name, value } of [...element.attributes]) {
    if (!value.includes("{{")) continue
    const low = name.toLowerCase()
    if (low === "srcdoc") element.removeAttribute(name)
    else if (low.startsWith("on")) element.setAttribute(name, tools.trusted("Script", filled(value, event, json)))
    else if (ADDRESSES.has(low)) setAddress(element, name, value, event, tools)
    else element.setAttribute(name, filled(value, event, text))
  }
}

function setAddress(element, name, value, event, tools) {
  const whole = /^\s*\{\{/.test(value)
  const address = filled(value, event, whole ? text : (found) => encodeURIComponent(text(found)))
  // what loads code must name its host itself; elsewhere a whole address must be one of the web
  const fits = LOADERS.has(element.localName) ? OWN_HOST.test(value) : isOfTheWeb(address)
  if (fits) element.setAttribute(name, LOADERS.has(element.localName) ? tools.trusted("ScriptURL", address) : address)
  else element.removeAttribute(name)
}

function isOfTheWeb(address) {
  try {
    return /^https?:$/.test(new URL(address, document.baseURI).protocol)
  } catch {
    return false
  }
}

function run(code, tools) {
  const script = document.createElement("script")
  if (tools.nonce) script.nonce = tools.nonce
  script.text = tools.trusted("Script", code)
  ;(document.head || document.documentElement).append(script)
  script.remove()
}

function inScript(node) {
  return node.parentNode && (node.parentNode.localName === "script" || node.parentNode.localName === "style")
}

function filled(template, event, write) {
  return template.replace(HOLE, (_, path) => write(valueAt(event, path)))
}

function valueAt(event, path) {
  let value = event
  for (const key of path.split(".").slice(1)) value = value == null ? undefined : value[key.trim()]
  return value
}

function json(value) {
  // no end of a script, a line, a text or a comment, and still the same value; `check` of tag.py refuses texts in double quotes
  return JSON.stringify(value === undefined ? null : value).replace(
    /[<\u2028\u2029'`$/]/g,
    (found) => "\\u" + found.charCodeAt(0).toString(16).padStart(4, "0"),
  )
}

function text(value) {
  return value == null ? "" : typeof value === "object" ? JSON.stringify(value) : String(value)
}
