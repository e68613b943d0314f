// Who the visitor is: an anonymous id in a cookie and in localStorage, and what `identify` and `group` said. Read again each time,
// because other pages of the site may change it.

import { forget, keep, newId, read, readCookie, readJson, widestDomain, writeCookie } from "./storage.mjs"

const ID = "penstock_id"
const PERSON = "penstock_person"
// ids of the tools that sites come from, so that a visitor stays the same
const KNOWN = ["ajs_anonymous_id", "__eventn_id"]

export function createPerson({ cookieDomain, cookieDays = 365, cookie = true }) {
  let anonymousId = null
  let person = null
  let persistent = false
  let domain = cookieDomain

  function known() {
    for (const name of KNOWN) {
      const found = readCookie(name) || read(name)
      if (found) return found.replace(/^"|"$/g, "")
    }
    return null
  }

  function persist(id) {
    anonymousId = id
    if (!persistent) return
    if (cookie && readCookie(ID) !== id) {
      domain ??= widestDomain()
      writeCookie(ID, id, cookieDays, domain)
    }
    if (read(ID) !== id) keep(ID, id)
  }

  function update(changes) {
    person = { ...self.said(), ...changes }
    if (persistent) keep(PERSON, JSON.stringify(person))
  }

  const self = {
    anonymousId() {
      const found = persistent && ((cookie && readCookie(ID)) || read(ID))
      if (!found || found !== anonymousId || (cookie && !readCookie(ID))) {
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
      const found = (cookie && readCookie(ID)) || read(ID) || known()
      persist(found || made || newId())
    },
    forget() {
      persistent = false
      person = anonymousId = null
      forget(PERSON)
      forget(ID)
      if (readCookie(ID)) writeCookie(ID, null, 0, (domain ??= widestDomain()))
    },
  }
  return self
}
