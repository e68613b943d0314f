// PostHog in the page. Options: shared/devices/kinds/posthog_js.py.

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i
let first = null

export async function load(options, tools) {
  const host = options.host.replace(/\/+$/, "")
  const own = host.replace(".i.posthog.com", "-assets.i.posthog.com") + "/static/array.js"
  const attributes = { crossorigin: "anonymous", ...(options.integrity && { integrity: options.integrity }) }
  const isOfPage = Boolean(window.posthog)
  if (!isOfPage) await tools.script(options.script || own, attributes)
  const main = window.posthog
  if (!main?.init) throw new Error("the vendor's script made no posthog")
  first ??= isOfPage ? "" : options.project_key
  const automatic = options.automatic_events
  const config = {
    autocapture: automatic,
    capture_pageleave: automatic,
    disable_session_recording: !automatic,
    ...options.config,
    api_host: host,
    capture_pageview: false,
    bootstrap: { distinctID: tools.user().anonymousId },
  }
  // another project of the page is an instance of its own
  const posthog = main.init(options.project_key, config, ...(first === options.project_key ? [] : ["penstock_" + options.project_key]))
  // PostHog itself remembers that an earlier visit ended with a refusal; an event that comes here says that this is over
  const optIn = () => posthog.has_opted_out_capturing() && posthog.opt_in_capturing({ captureEventName: false })
  if (!isOfPage) optIn()
  let user
  const handle = (event) => {
    const userId = event.userId && String(event.userId)
    const { type, traits } = event
    if (type === "identify" && !userId) posthog.setPersonProperties({ ...traits })
    else if (userId && type !== "alias" && (type === "identify" || userId !== user)) posthog.identify(userId, type === "identify" ? { ...traits } : {})
    user = type === "alias" ? user : userId || user
    if (type === "group" && event.groupId) posthog.group(options.group_type, String(event.groupId), { ...traits })
    if (type === "alias" && event.userId) posthog.alias(String(event.userId), ...(event.previousId ? [String(event.previousId)] : []))
    const told = {
      ...(UUID.test(event.messageId) && { uuid: event.messageId.toLowerCase() }),
      ...(event.timestamp && { timestamp: new Date(event.timestamp) }),
    }
    if (type === "track") posthog.capture(String(event.event), { ...event.properties }, told)
    if (type === "page") posthog.capture("$pageview", viewed(event), told)
    if (type === "screen") posthog.capture("$screen", { $screen_name: event.name, ...event.properties }, told)
  }
  handle.reset = () => {
    user = undefined
    posthog.reset()
  }
  let isTakenBack = false
  handle.consent = (may) => {
    if (!may) posthog.opt_out_capturing()
    else if (isTakenBack) optIn()
    isTakenBack = !may
  }
  return handle
}

function viewed({ name, category, properties, context }) {
  const url = properties?.url || context?.page?.url
  return { ...(name && { name }), ...(category && { category }), ...properties, ...(url && { $current_url: url }) }
}
