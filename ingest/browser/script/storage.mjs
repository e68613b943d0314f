// What the browser keeps for us. Nothing here throws: storage may be blocked, full or absent (private mode, sandboxed frames).

const DAY_SECONDS = 86400

export function read(name) {
  try {
    return localStorage.getItem(name)
  } catch {
    return null
  }
}

// Says whether it is kept.
export function keep(name, text) {
  try {
    localStorage.setItem(name, text)
    return true
  } catch {
    return false
  }
}

export function forget(name) {
  try {
    localStorage.removeItem(name)
  } catch {
    // then nothing was kept either
  }
}

// The names that end with one more part; a key may have dots, and `shop.` must not find what belongs to `shop.eu`.
export function namesFrom(prefix) {
  try {
    return Object.keys(localStorage).filter((name) => name.startsWith(prefix) && !name.includes(".", prefix.length))
  } catch {
    return []
  }
}

export function readJson(name) {
  try {
    return JSON.parse(read(name))
  } catch {
    return null
  }
}

// Every value of this name: cookies of several domains stand side by side, the oldest first.
export function readCookies(name) {
  try {
    return document.cookie
      .split("; ")
      .filter((each) => each.startsWith(name + "="))
      .map((each) => decodeURIComponent(each.slice(name.length + 1)))
  } catch {
    return []
  }
}

export function writeCookie(name, value, days, domain) {
  try {
    const seconds = value === null ? 0 : days * DAY_SECONDS
    document.cookie =
      `${name}=${encodeURIComponent(value ?? "")}; max-age=${seconds}; path=/; samesite=lax` +
      (domain ? `; domain=${domain}` : "") +
      (location.protocol === "https:" ? "; secure" : "")
  } catch {
    // a sandboxed frame
  }
}

// The domains that a page may set a cookie for, the widest first: example.com, shop.example.com, and "", the host alone.
function domainsOfPage() {
  const parts = location.hostname.split(".")
  if (/^[\d.]+$|:/.test(location.hostname)) return [""]
  return [...parts.slice(1).map((_, index) => parts.slice(-2 - index).join(".")), ""]
}

// The widest domain that takes a cookie of this page: example.com for www.shop.example.com; "" for the host alone.
export function widestDomain() {
  return domainsOfPage().find((domain) => {
    writeCookie("penstock_try", "1", 1, domain)
    const isTaken = readCookies("penstock_try").length
    writeCookie("penstock_try", null, 0, domain)
    return isTaken || !domain
  })
}

// Removes a cookie from every domain but one.
export function dropCookies(name, but) {
  for (const domain of domainsOfPage()) if (domain !== but) writeCookie(name, null, 0, domain)
}

// As JSON. Old libraries give arrays a `toJSON` that makes texts of them.
export function toText(value) {
  const { toJSON } = Array.prototype
  if (!toJSON) return JSON.stringify(value)
  delete Array.prototype.toJSON
  try {
    return JSON.stringify(value)
  } finally {
    Array.prototype.toJSON = toJSON
  }
}

export function newId() {
  if (globalThis.crypto?.randomUUID) return crypto.randomUUID()
  // pages without TLS
  return "10000000-1000-4000-8000-100000000000".replace(/[018]/g, (digit) =>
    (+digit ^ (crypto.getRandomValues(new Uint8Array(1))[0] & (15 >> (+digit / 4)))).toString(16),
  )
}
