// Google Analytics 4 by gtag.js. Options: shared/devices/kinds/ga4_tag.py.

const NAMES = new Map([
  ["Order Completed", "purchase"],
  ["Order Refunded", "refund"],
  ["Product Added", "add_to_cart"],
  ["Product Removed", "remove_from_cart"],
  ["Product Viewed", "view_item"],
  ["Product Clicked", "select_item"],
  ["Product List Viewed", "view_item_list"],
  ["Product Added to Wishlist", "add_to_wishlist"],
  ["Products Searched", "search"],
  ["Cart Viewed", "view_cart"],
  ["Checkout Started", "begin_checkout"],
  ["Payment Info Entered", "add_payment_info"],
  ["Promotion Viewed", "view_promotion"],
  ["Promotion Clicked", "select_promotion"],
  ["Signed Up", "sign_up"],
  ["Signed In", "login"],
])
const RESERVED = new Set(
  ("ad_activeview ad_click ad_exposure ad_query ad_reward adunit_exposure app_clear_data app_exception app_install app_remove " +
    "app_store_refund app_store_subscription_cancel app_store_subscription_renew app_update app_upgrade click error file_download " +
    "first_open first_visit form_start form_submit in_app_purchase notification_dismiss notification_foreground notification_open " +
    "notification_receive os_update scroll session_start user_engagement video_complete video_progress video_start view_complete " +
    "view_search_results").split(" "),
)
const RESERVED_TRAITS = new Set(["first_open_after_install", "first_open_time", "first_visit_time", "last_deep_link_referrer", "user_id"])
const PERSONAL = new Set(["email", "phone", "name", "firstName", "lastName", "address"])
const TAKEN = new Set(["order_id", "orderId", "total", "revenue", "query", "url", "path", "referrer", "title", "search", "products"])
const OF_ONE_PRODUCT = new Set(["add_to_cart", "remove_from_cart", "view_item", "select_item", "add_to_wishlist"])
const ITEM = {
  item_id: ["product_id", "productId", "sku"],
  item_name: ["name"],
  item_brand: ["brand"],
  item_category: ["category"],
  item_variant: ["variant"],
  coupon: ["coupon"],
  index: ["position"],
  price: ["price"],
  quantity: ["quantity"],
}
const LONGEST = new Map([["page_location", 1000], ["page_referrer", 420], ["page_title", 300]])
const TYPES = ["ad_storage", "ad_user_data", "ad_personalization", "analytics_storage"]
const MOST_PARAMETERS = 25
const MOST_WAITING = 1000

let loading

export async function load(options, tools) {
  const id = options.measurement_id
  const layer = (window.dataLayer ||= [])
  const gtag = (window.gtag ||= function () {
    layer.push(arguments)
  })
  const consent = consentMode(options.consent_mode, (...words) => gtag("consent", ...words))
  const url = options.script || "https://www.googletagmanager.com/gtag/js?id=" + encodeURIComponent(id)
  // one script serves every ID
  if (!loading) {
    gtag("js", new Date())
    loading = tools.script(url, attributesOf(options))
  }
  await loading
  let user
  let isConfigured = false
  const configure = (userId) => {
    user = userId
    isConfigured = true
    gtag("config", id, { ...options.config, send_page_view: false, ...(userId !== undefined && { user_id: userId }) })
  }
  const handle = (event) => {
    if (layer.length > MOST_WAITING && !window.google_tag_manager) return full(tools)
    consent(event.context?.consent?.categoryPreferences)
    const userId = event.userId && cut(String(event.userId), 256)
    if (userId && userId !== user) configure(userId)
    else if (!isConfigured) configure()
    const traits = event.type === "identify" ? userProperties(event.traits) : {}
    if (Object.keys(traits).length) gtag("set", "user_properties", traits)
    const name = nameOf(event, options.events)
    if (name) gtag("event", name, { ...parametersOf(event, name), send_to: id })
  }
  handle.reset = () => user && configure(null)
  handle.consent = (may, granted) => {
    // Google's own switch: nothing goes for this ID, also nothing that the tag measures by itself
    window["ga-disable-" + id] = !may
    consent.decide(granted)
  }
  return handle
}

let told = false
function full(tools) {
  if (!told) {
    told = true
    throw new Error("the vendor's script does not take its events; further ones are left out")
  }
  tools.log("left out: the vendor's script takes nothing")
}

export function attributesOf({ integrity }) {
  return integrity ? { integrity, crossorigin: "anonymous" } : {}
}

// Everything is denied until an event or the visitor says that its categories are granted.
export function consentMode(modes, say) {
  const types = Object.entries(modes)
  const states = (granted) =>
    Object.fromEntries(types.map(([type, categories]) => [type, categories.every((each) => granted[each] === true) ? "granted" : "denied"]))
  let last = states({})
  let isTakenBack = false
  if (types.length) say("default", last)
  const hear = (granted) => {
    if (!granted || typeof granted !== "object") return
    const now = states(granted)
    if (types.some(([type]) => now[type] !== last[type])) say("update", now)
    last = now
  }
  const all = (state) => Object.fromEntries(TYPES.map((type) => [type, state]))
  hear.decide = (granted) => {
    if (granted === false) {
      last = states({})
      say("update", { ...all("denied"), ...last })
      isTakenBack = true
    } else if (granted === true && isTakenBack) {
      // what no category decides is granted as before; categories alone do not say so
      say("update", { ...all("granted"), ...last })
      isTakenBack = false
    }
    hear(granted)
  }
  return hear
}

export function nameOf(event, own) {
  if (event.type === "page") return "page_view"
  if (event.type === "screen") return "screen_view"
  if (event.type === "group") return "join_group"
  if (event.type !== "track") return ""
  const name = text(event.event)
  if (Object.hasOwn(own, name)) return own[name]
  const spelt = NAMES.get(name) || spell(name, 40)
  return RESERVED.has(spelt) ? "n_" + spelt : spelt
}

export function parametersOf(event, name) {
  const properties = isObject(event.properties) ? event.properties : {}
  const page = isObject(event.context?.page) ? event.context.page : {}
  const found = kept({
    transaction_id: first(properties, ["order_id", "orderId"]),
    value: number(first(properties, ["total", "revenue", "value"])),
    tax: number(properties.tax),
    shipping: number(properties.shipping),
    coupon: properties.coupon,
    currency: typeof properties.currency === "string" ? properties.currency.toUpperCase() : properties.currency,
    search_term: properties.query,
    page_location: properties.url ?? page.url,
    page_referrer: properties.referrer ?? page.referrer,
    page_title: properties.title ?? page.title,
    screen_name: event.type === "screen" ? text(event.name) : undefined,
    group_id: event.type === "group" ? text(event.groupId) : undefined,
  })
  let items = (Array.isArray(properties.products) ? properties.products : []).filter(isObject).slice(0, 200).map(itemOf)
  if (!items.length && OF_ONE_PRODUCT.has(name)) items = [itemOf(properties)]
  for (const [key, value] of Object.entries(properties)) {
    const spelt = spell(key, 40)
    if (!TAKEN.has(key) && spelt && !Object.hasOwn(found, spelt) && ["string", "number", "boolean"].includes(typeof value)) found[spelt] = value
  }
  const most = MOST_PARAMETERS - (items.length ? 1 : 0)
  const parameters = Object.fromEntries(Object.entries(found).slice(0, most).map(([key, value]) => [key, cut(value, LONGEST.get(key) || 100)]))
  if (items.length) parameters.items = items
  return parameters
}

function itemOf(product) {
  const item = Object.fromEntries(Object.entries(ITEM).map(([key, names]) => [key, first(product, names)]))
  for (const key of ["index", "price", "quantity"]) item[key] = number(item[key])
  return kept(item)
}

function userProperties(traits) {
  const found = {}
  for (const [key, value] of Object.entries(isObject(traits) ? traits : {})) {
    const name = spell(key, 24)
    // Google forbids data that identifies a person
    if (name && !PERSONAL.has(key) && text(value)) found[(RESERVED_TRAITS.has(name) ? "n_" + name : name).slice(0, 24)] = cut(text(value), 36)
  }
  return Object.fromEntries(Object.entries(found).slice(0, 25))
}

function spell(name, most) {
  let plain = cut(name, 1000).replace(/[^A-Za-z0-9]+/g, "_").replace(/^_|_$/g, "")
  while (/^(ga|google|firebase)_/i.test(plain)) plain = plain.slice(plain.indexOf("_") + 1)
  if (plain && !/^[A-Za-z]/.test(plain)) plain = "n_" + plain
  return plain.slice(0, most)
}

function first(object, names) {
  return names.map((name) => object[name]).find((value) => value !== undefined && value !== null && value !== "")
}

function number(value) {
  return typeof value === "string" && value.trim() && Number.isFinite(Number(value)) ? Number(value) : value
}

function kept(object) {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined && value !== null && value !== ""))
}

function text(value) {
  return typeof value === "string" ? value.trim() : typeof value === "number" ? String(value) : ""
}

function cut(value, most) {
  return typeof value === "string" ? value.slice(0, most) : value
}

function isObject(value) {
  return value !== null && typeof value === "object" && !Array.isArray(value)
}
