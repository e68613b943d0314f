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

export function readCookie(name) {
  try {
    const found = document.cookie.split("; ").find((each) => each.startsWith(name + "="))
    return found ? decodeURIComponent(found.slice(name.length + 1)) : null
  } catch {
    return null
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

// The widest domain that takes a cookie of this page: example.com for www.shop.example.com; "" for the host alone.
export function widestDomain() {
  const parts = location.hostname.split(".")
  if (/^[\d.]+$|:/.test(location.hostname)) return ""
  for (let count = 2; count <= parts.length; count++) {
    const domain = parts.slice(-count).join(".")
    writeCookie("penstock_try", "1", 1, domain)
    if (readCookie("penstock_try")) {
      writeCookie("penstock_try", null, 0, domain)
      return domain
    }
  }
  return ""
}

export function newId() {
  if (globalThis.crypto?.randomUUID) return crypto.randomUUID()
  // pages without TLS
  return "10000000-1000-4000-8000-100000000000".replace(/[018]/g, (digit) =>
    (+digit ^ (crypto.getRandomValues(new Uint8Array(1))[0] & (15 >> (+digit / 4)))).toString(16),
  )
}
