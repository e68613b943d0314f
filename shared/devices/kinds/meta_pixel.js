// Meta's pixel. Options: shared/devices/kinds/meta_pixel.py.

const NAMES = new Map([
  ["Order Completed", "Purchase"],
  ["Product Added", "AddToCart"],
  ["Product Added to Wishlist", "AddToWishlist"],
  ["Product Viewed", "ViewContent"],
  ["Product List Viewed", "ViewContent"],
  ["Products Searched", "Search"],
  ["Checkout Started", "InitiateCheckout"],
  ["Payment Info Entered", "AddPaymentInfo"],
  ["Signed Up", "CompleteRegistration"],
  ["Subscription Started", "Subscribe"],
  ["Trial Started", "StartTrial"],
  ["Lead Submitted", "Lead"],
])
const STANDARD = new Set([
  ...NAMES.values(),
  ..."PageView Contact CustomizeProduct Donate FindLocation Schedule SubmitApplication".split(" "),
])
const CUSTOM = {
  currency: ["currency"],
  order_id: ["order_id", "orderId"],
  search_string: ["query"],
  content_name: ["name"],
  content_category: ["category"],
  status: ["status"],
}
const MOST_WAITING = 1000

export async function load(options, tools) {
  const id = options.pixel_id
  if (!window.fbq) stub()
  const { fbq } = window
  if (options.consent_mode.length) fbq("consent", "revoke")
  if (!options.automatic_events) fbq("set", "autoConfig", false, id)
  const matching = options.advanced_matching ? matchingOf(tools.user()) : {}
  if (Object.keys(matching).length) fbq("init", id, matching)
  else fbq("init", id)
  const attributes = options.integrity ? { integrity: options.integrity, crossorigin: "anonymous" } : {}
  // a page that has a pixel of its own loads the script itself
  if (fbq.ofPenstock) await tools.script(options.script || "https://connect.facebook.net/en_US/fbevents.js", attributes)
  let isGranted = !options.consent_mode.length
  let told = false
  const allow = (now) => {
    if (now !== isGranted) fbq("consent", now ? "grant" : "revoke")
    isGranted = now
  }
  const decide = (granted) => {
    if (options.consent_mode.length && isObject(granted)) allow(options.consent_mode.every((category) => granted[category] === true))
  }
  const handle = (event) => {
    if (fbq.queue?.length > MOST_WAITING && !fbq.callMethod) {
      if (told) return
      told = true
      throw new Error("the vendor's script does not take its events; further ones are left out")
    }
    decide(event.context?.consent?.categoryPreferences)
    const name = event.type === "page" ? "PageView" : event.type === "track" ? text(event.event) : ""
    if (!name) return
    const known = Object.hasOwn(options.events, name) ? options.events[name] : NAMES.get(name) || name
    fbq(STANDARD.has(known) ? "trackSingle" : "trackSingleCustom", id, known, parametersOf(event), { eventID: event.messageId })
  }
  handle.consent = (may, granted) => {
    if (!may) allow(false)
    else if (options.consent_mode.length) decide(granted)
    else allow(true)
  }
  return handle
}

function stub() {
  const fbq = function () {
    fbq.callMethod ? fbq.callMethod(...arguments) : fbq.queue.push(arguments)
  }
  Object.assign(fbq, { push: fbq, loaded: true, version: "2.0", queue: [], disablePushState: true, ofPenstock: true })
  window.fbq = fbq
  window._fbq ||= fbq
}

function parametersOf(event) {
  const properties = isObject(event.properties) ? event.properties : {}
  const found = filled(properties, CUSTOM)
  if (event.type === "page") {
    found.content_name ??= event.name
    found.content_category ??= event.category
  }
  if (typeof found.currency === "string") found.currency = found.currency.toUpperCase()
  const value = ["total", "revenue", "value", "price"].map((key) => number(properties[key])).find((each) => typeof each === "number")
  if (value !== undefined) found.value = value
  let products = (Array.isArray(properties.products) ? properties.products : []).filter(isObject)
  if (!products.length && properties.product_id != null) products = [properties]
  if (products.length) {
    found.contents = products.map(contentOf)
    found.content_ids = found.contents.filter((each) => "id" in each).map((each) => each.id)
    found.content_type = "product"
    found.num_items = products.length
  }
  return Object.fromEntries(Object.entries(found).filter(([, each]) => each !== undefined))
}

function contentOf(product) {
  const found = filled(product, { id: ["product_id", "productId", "sku"], quantity: ["quantity"], item_price: ["price"] })
  for (const key of ["quantity", "item_price"]) if (key in found) found[key] = number(found[key])
  return found
}

function matchingOf({ userId, traits }) {
  const { email, phone, firstName, lastName, gender, birthday, address } = traits || {}
  const { city, state, postalCode, country } = address || {}
  const found = {
    em: email,
    ph: phone,
    fn: firstName,
    ln: lastName,
    ge: text(gender).toLowerCase().slice(0, 1),
    db: text(birthday).slice(0, 10).replace(/\D/g, ""),
    ct: city,
    st: state,
    zp: postalCode,
    country,
    external_id: userId,
  }
  return Object.fromEntries(Object.entries(found).map(([key, value]) => [key, text(value)]).filter(([, value]) => value))
}

function filled(object, table) {
  const found = {}
  for (const [name, keys] of Object.entries(table)) {
    const key = keys.find((each) => object[each] !== undefined && object[each] !== null && object[each] !== "")
    if (key) found[name] = object[key]
  }
  return found
}

function number(value) {
  return typeof value === "string" && value.trim() && Number.isFinite(Number(value)) ? Number(value) : value
}

function text(value) {
  return typeof value === "string" ? value.trim() : typeof value === "number" ? String(value) : ""
}

function isObject(value) {
  return value !== null && typeof value === "object" && !Array.isArray(value)
}
