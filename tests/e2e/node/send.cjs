// Sends every kind of call with @segment/analytics-node and prints what it sent and what went wrong, as one JSON object.
// Arguments: base address, write key, how many rounds, milliseconds between them.
const { Analytics } = require('@segment/analytics-node')

const [host, writeKey, rounds, pause = '0'] = process.argv.slice(2)
const analytics = new Analytics({ writeKey, host, flushInterval: 50, maxRetries: 20 })
const problems = []
const delivered = []
analytics.on('error', (error) => problems.push(String(error.reason || error.code || error)))
const note = (error, context) => (error ? problems.push(String(error)) : delivered.push(context.event.messageId))

async function send() {
  for (let n = 0; n < Number(rounds); n++) {
    const who = { userId: `user-${n % 7}` }
    analytics.track({ ...who, event: 'Order Completed', properties: { total: n * 1.5, items: [{ sku: `é-${n}` }] } }, note)
    analytics.identify({ ...who, traits: { plan: 'pro', born: new Date(0) } }, note)
    analytics.page({ anonymousId: `anon-${n}`, name: 'Home', properties: { url: 'https://shop.example.com/' } }, note)
    analytics.screen({ ...who, name: 'Cart' }, note)
    analytics.group({ ...who, groupId: 'g1', traits: { size: 3 } }, note)
    analytics.alias({ ...who, previousId: `old-${n}` }, note)
    if (Number(pause)) await new Promise((resolve) => setTimeout(resolve, Number(pause)))
  }
  await analytics.closeAndFlush({ timeout: 15000 })
  console.log(JSON.stringify({ delivered, problems }))
}
send()
