// Sends every kind of event with @snowplow/node-tracker and prints the parameters it delivered and what went wrong, as one JSON object.
// Arguments: base address, app id, how many rounds, get or post.
const t = require('@snowplow/node-tracker')

const [base, appId, rounds, eventMethod] = process.argv.slice(2)
const { hostname, port } = new URL(base)
const delivered = []
const problems = []
let settle
const settled = new Promise((resolve) => (settle = resolve))
const tracker = t.newTracker(
  { namespace: 'node', appId },
  {
    endpoint: hostname,
    port: Number(port),
    protocol: 'http',
    eventMethod,
    bufferSize: 7,
    onRequestSuccess: (batch) => {
      delivered.push(...batch)
      if (delivered.length === 6 * Number(rounds)) settle()
    },
    onRequestFailure: (failure) => {
      problems.push(failure.message || String(failure.status))
      settle()
    },
  },
)

async function main() {
  tracker.setDomainUserId('d-1')
  tracker.setNetworkUserId('5c37a5b7-55fe-4bb8-a6e2-ad4e6ad54ee2')
  tracker.setLang('de')
  tracker.setScreenResolution(1920, 1080)
  for (let n = 0; n < Number(rounds); n++) {
    tracker.setUserId(`user-${n % 7}`)
    const context = [{ schema: 'iglu:com.acme/user/jsonschema/2-0-1', data: { level: n, name: `é-${n}` } }]
    tracker.track(t.buildPageView({ pageUrl: `https://shop.example.com/${n}?utm_source=news`, pageTitle: 'Home', referrer: 'https://www.google.com/search?q=shoes' }), context)
    tracker.track(t.buildPagePing({ pageUrl: 'https://shop.example.com/', pageTitle: 'Home', minXOffset: 0, maxXOffset: n, minYOffset: 5, maxYOffset: 9 }))
    tracker.track(t.buildStructEvent({ category: 'shop', action: 'add', label: 'l', property: 'p', value: n * 1.5 }))
    tracker.track(t.buildSelfDescribingEvent({ event: { schema: 'iglu:com.acme/order_placed/jsonschema/1-0-0', data: { total: n * 1.5, items: [{ sku: `é-${n}` }] } } }), context, { type: 'ttm', value: 1767225600000 + n })
    tracker.track(t.buildEcommerceTransaction({ orderId: `o-${n}`, total: 20.1, affiliation: 'a', tax: 1, shipping: 2, city: 'c', state: 's', country: 'DE', currency: 'EUR' }))
    tracker.track(t.buildEcommerceTransactionItem({ orderId: `o-${n}`, sku: 's', name: 'n', category: 'c', price: 3.5, quantity: 2, currency: 'EUR' }))
  }
  await tracker.flush()
  await settled // flush does not wait for another one under way
}

main()
  .catch((error) => problems.push(String(error)))
  .finally(() => console.log(JSON.stringify({ delivered, problems })))
