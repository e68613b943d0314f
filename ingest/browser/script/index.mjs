// The script as a module: `import { load } from "@penstock/browser"`. It starts nothing by itself.

import { createAnalytics, VERSION } from "./analytics.mjs"
import { startDevices } from "./devices.mjs"
import { socketTransport } from "./socket.mjs"

export { VERSION }

// A bundle has its modules, so a page needs no script of another host.
export function load(options) {
  return createAnalytics({
    loadDevices: async () => ({ startDevices }),
    loadSocket: async () => ({ socketTransport }),
    ...options,
  })
}
