// LogRocket. Options: shared/devices/kinds/logrocket.py.

let app = null

export async function load(options, tools) {
  if (app && app !== options.app_id) throw new Error(`this page records for ${app} already`)
  const isFirst = !app
  app = options.app_id
  const attributes = { crossorigin: "anonymous", ...(options.integrity && { integrity: options.integrity }) }
  if (!window.LogRocket) await tools.script(options.script || "https://cdn.logr-in.com/LogRocket.min.js", attributes)
  const { LogRocket } = window
  if (!LogRocket) throw new Error("the vendor's script made no LogRocket")
  if (isFirst) LogRocket.init(options.app_id, options.config)
  let user
  const handle = (event) => {
    const userId = event.userId && String(event.userId)
    const traits = event.type === "identify" ? plain(event.traits) : {}
    if (userId && (userId !== user || event.type === "identify")) LogRocket.identify(userId, traits)
    else if (!userId && Object.keys(traits).length) LogRocket.identify(traits)
    if (userId) user = userId
    if (event.type === "track") LogRocket.track(String(event.event), plain(event.properties))
    else if (options.pages && (event.type === "page" || event.type === "screen"))
      LogRocket.track(event.type === "page" ? "Page Viewed" : "Screen Viewed", plain({ name: event.name, category: event.category, ...event.properties }))
  }
  handle.reset = () => {
    user = undefined
    LogRocket.startNewSession()
  }
  return handle
}

function plain(values) {
  const found = Object.entries(values || {}).filter(([, value]) => value !== undefined && value !== null)
  return Object.fromEntries(found.map(([key, value]) => [key, typeof value === "object" ? JSON.stringify(value) : value]))
}
