// Sends every kind of call with @jitsu/sdk-js and prints what it sent and what went wrong, as one JSON object.
// Arguments: base address, key, how many rounds.
const { jitsuClient } = require('@jitsu/sdk-js')

const [trackingHost, key, rounds] = process.argv.slice(2)
const problems = []
const answers = []
const watched = async (url, options) => {
  const answer = await fetch(url, options)
  answers.push([answer.status, await answer.clone().text()])
  return answer
}
const jitsu = jitsuClient({ key, tracking_host: trackingHost, fetch: watched, log_level: 'ERROR' })
let sent = 0

async function main() {
  for (let n = 0; n < Number(rounds); n++) {
    for (const call of [
      () => jitsu.id({ id: `user-${n % 7}`, email: 'a@example.com', plan: 'pro' }),
      () => jitsu.track('order_completed', { total: n * 1.5, items: [{ sku: `é-${n}` }] }),
      () => jitsu.track('pageview', { url: 'https://shop.example.com/', n }),
      () => jitsu.rawTrack({ event_type: 'raw', user: { internal_id: 'u' }, n }),
    ]) {
      await call()
      sent++
    }
    await new Promise((resolve) => setImmediate(resolve))
  }
}

main()
  .catch((error) => problems.push(String(error)))
process.on('beforeExit', () => {
  for (const [status, body] of answers) if (status !== 200 || body !== '{"status":"ok"}') problems.push(`${status} ${body}`)
  console.log(JSON.stringify({ sent, problems }))
  process.exit(0)
})
