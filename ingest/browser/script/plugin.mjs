// Device destinations for Segment's analytics-next, which finds this plug-in in its settings document (`remotePlugins`).

window.penstockDevices = (settings) => {
  let take
  let loaded = false
  const hand = (context) => {
    // a date is text in the page's own script
    take(JSON.parse(JSON.stringify(context.event)))
    return context
  }
  return {
    name: "Penstock devices",
    version: "1",
    type: "destination",
    isLoaded: () => loaded,
    async load(_, analytics) {
      const { startDevices } = await import(`${settings.base}m/devices.mjs?v=${settings.version}`)
      take = startDevices({
        devices: settings.devices,
        base: settings.base,
        nonce: document.querySelector("script[nonce]")?.nonce || "",
        warn: (...words) => console.warn("[penstock]", ...words),
        log: () => 0,
        user: () => ({
          userId: analytics?.user().id() ?? undefined,
          anonymousId: analytics?.user().anonymousId(),
          traits: analytics?.user().traits(),
        }),
      })
      analytics?.on?.("reset", () => take(null))
      loaded = true
    },
    track: hand,
    page: hand,
    identify: hand,
    group: hand,
    alias: hand,
    screen: hand,
  }
}
