// What an event says about the page it comes from.

export function pageOf(seen) {
  const canonical = document.querySelector("link[rel='canonical']")?.href
  // a frame without an address of its own belongs to the page around it
  const here = location.protocol === "about:" ? new URL(document.baseURI) : location
  const url = canonical || here.href.split("#")[0]
  const page = {
    path: here.pathname,
    referrer: document.referrer,
    search: here.search,
    title: document.title,
    url: canonical && !canonical.includes("?") ? canonical + here.search : url,
  }
  try {
    if (canonical) page.path = new URL(canonical).pathname
  } catch {
    // a canonical address that is none
  }
  return Object.assign(page, seen)
}

export function campaignOf(search) {
  const campaign = {}
  for (const [name, value] of new URLSearchParams(search)) {
    if (name.startsWith("utm_") && name.length > 4) campaign[name === "utm_campaign" ? "name" : name.slice(4)] = value
  }
  return campaign
}

let timezone

export function contextOf(library, seen) {
  const page = pageOf(seen)
  const campaign = campaignOf(page.search)
  const context = {
    library,
    page,
    locale: navigator.language,
    screen: {
      width: screen.width,
      height: screen.height,
      innerWidth,
      innerHeight,
      density: devicePixelRatio,
    },
  }
  if (Object.keys(campaign).length) context.campaign = campaign
  try {
    // it costs more than all the rest
    context.timezone = timezone ??= Intl.DateTimeFormat().resolvedOptions().timeZone
  } catch {
    // an old browser
  }
  return context
}
