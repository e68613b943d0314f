// Who the visitor is: an anonymous id in a cookie and in localStorage, and what `identify` and `group` said. Read again each time,
// because other pages of the site may change it.

import { dropCookies, forget, keep, newId, read, readCookies, readJson, toText, widestDomain, writeCookie } from "./storage.mjs"

const ID = "penstock_id"
const PERSON = "penstock_person"
// ids of the tools that sites come from, so that a visitor stays the same
const KNOWN = ["ajs_anonymous_id", "__eventn_id"]

export function createPerson({ cookieDomain, cookieDays = 365, cookie = true }) {
  let anonymousId = null
  let person = null
  let persistent = false
  let domain = cookieDomain
  // what the site says of its cookie is known
  let isSettled = false

  function known() {
    for (const name of KNOWN) {
      const found = readCookies(name)[0] || read(name)
      if (found) return found.replace(/^"|"$/g, "")
    }
    return null
  }

  const cookies = () => (persistent && cookie ? readCookies(ID) : [])

  // The id and the number of cookies. Of those side by side: that of the id in use, of the last visit to this host, then the oldest.
  function kept() {
    const held = cookies()
    const last = persistent && read(ID)
    return [[anonymousId, last].find((id) => held.includes(id)) || held[0] || last, held.length]
  }

  function persist(given) {
    const id = (anonymousId = String(given))
    if (!persistent) return
    const held = cookies()
    if (cookie && (!held.includes(id) || (isSettled && held.length > 1))) {
      domain ??= widestDomain()
      // one of another domain would hide this one, or another page's choice
      if (held.length) dropCookies(ID, domain)
      if (!cookies().includes(id)) writeCookie(ID, id, cookieDays, domain)
    }
    if (read(ID) !== id) keep(ID, id)
  }

  function update(changes) {
    person = { ...self.said(), ...changes }
    if (persistent) keep(PERSON, toText(person))
  }

  const self = {
    anonymousId() {
      const [found, count] = kept()
      if (!found || found !== anonymousId || (persistent && cookie && count !== 1)) {
        persist(found || anonymousId || (persistent && known()) || newId())
      }
      return anonymousId
    },
    setAnonymousId: persist,
    said: () => (persistent && readJson(PERSON)) || person || {},
    identify(userId, traits) {
      const before = self.said()
      const same = !userId || !before.userId || before.userId === userId
      update({ userId: userId || before.userId, traits: { ...(same && before.traits), ...traits } })
    },
    group(groupId, traits) {
      update({ groupId, groupTraits: traits })
    },
    reset() {
      person = null
      forget(PERSON)
      persist(newId())
    },
    // From now on the browser keeps it. Before consent it is only in memory.
    remember() {
      const made = anonymousId
      persistent = true
      if (person) update(person)
      // an id from an earlier visit goes on
      persist(kept()[0] || known() || made || newId())
    },
    // The domain that the server sets the cookie for, if it does and if it is that of the page.
    settle(found) {
      isSettled = true
      if (found && ("." + location.hostname).endsWith("." + found)) domain = found
      if (anonymousId) persist(anonymousId)
    },
    forget() {
      persistent = false
      person = anonymousId = null
      forget(PERSON)
      forget(ID)
      if (readCookies(ID).length) dropCookies(ID)
    },
  }
  return self
}
