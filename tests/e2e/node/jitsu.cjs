// Sends every kind of call with @jitsu/js and prints what it sent and what went wrong, as one JSON object.
// Arguments: base address, write key, how many rounds.
const { jitsuAnalytics } = require('@jitsu/js')

const [host, writeKey, rounds] = process.argv.slice(2)
const analytics = jitsuAnalytics({ host, writeKey, s2s: true, errorPolicy: 'throw' })
const problems = []
let delivered = 0

async function main() {
  for (let n = 0; n < Number(rounds); n++) {
    await analytics.setAnonymousId(`anon-${n}`)
    for (const [kind, ...args] of [
      ['track', 'Order Completed', { total: n * 1.5, items: [{ sku: `é-${n}` }] }],
      ['identify', `user-${n % 7}`, { plan: 'pro' }],
      ['page', { name: 'Home', url: 'https://shop.example.com/' }],
      ['group', 'g1', { size: 3 }],
    ]) {
      await analytics[kind](...args)
      delivered++
    }
  }
}

main()
  .catch((error) => problems.push(String(error)))
  .finally(() => console.log(JSON.stringify({ delivered, problems })))
