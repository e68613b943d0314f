// Sends every kind of call with @rudderstack/rudder-sdk-node and prints what it sent and what went wrong, as one JSON object.
// Arguments: base address, write key, how many rounds, `gzip` or `plain`.
const Analytics = require('@rudderstack/rudder-sdk-node')

const [dataPlaneUrl, writeKey, rounds, packed] = process.argv.slice(2)
const analytics = new Analytics(writeKey, { dataPlaneUrl, flushInterval: 50, gzip: packed === 'gzip', logLevel: 'error' })
const problems = []
const delivered = []
const answers = []

function send(kind, message) {
  const messageId = `${kind}-${answers.length}`
  const note = (resolve) => (error) => resolve(error ? problems.push(String(error)) : delivered.push(messageId))
  answers.push(new Promise((resolve) => analytics[kind]({ ...message, messageId }, note(resolve))))
}

async function main() {
  for (let n = 0; n < Number(rounds); n++) {
    const who = { userId: `user-${n % 7}` }
    send('track', { ...who, event: 'Order Completed', properties: { total: n * 1.5, items: [{ sku: `é-${n}` }] } })
    send('identify', { ...who, traits: { plan: 'pro', born: new Date(0) } })
    send('page', { anonymousId: `anon-${n}`, name: 'Home', properties: { url: 'https://shop.example.com/' } })
    send('screen', { ...who, name: 'Cart' })
    send('group', { ...who, groupId: 'g1', traits: { size: 3 } })
    send('alias', { ...who, previousId: `old-${n}` })
  }
  analytics.flush()
  await Promise.all(answers)
}

main()
  .catch((error) => problems.push(String(error)))
  .finally(() => {
    console.log(JSON.stringify({ delivered, problems }))
    process.exit(0)
  })
