// `where` of a connection, judged in the page as shared/rules/where.py judges it in the services. Pure.

const MOMENT = /^(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:[.,](\d{1,6}))?(Z|z|[+-]\d\d(?::?\d\d)?)?$/

export function passes(where, event) {
  if (where == null) return true
  if (Array.isArray(where)) return where.every((each) => passes(each, event))
  if (where.all) return where.all.every((each) => passes(each, event))
  if (where.any) return where.any.some((each) => passes(each, event))
  if (where.not) return !passes(where.not, event)
  const value = valueAt(event, where.field)
  return Object.entries(where).every(([name, operand]) => name === "field" || meets(name, operand, value))
}

function valueAt(event, field) {
  let value = event
  for (const key of Array.isArray(field) ? field : field.split(".")) {
    if (value === null || typeof value !== "object") return null
    if (Array.isArray(value) ? !/^\d{1,9}$/.test(key) : !Object.hasOwn(value, key)) return null
    value = Array.isArray(value) ? value[+key] : value[key]
  }
  return value ?? null
}

function meets(name, operand, value) {
  if (value === null) return name === "ne" || name === "not_in" || (name === "exists" && !operand)
  const isText = typeof value === "string"
  switch (name) {
    case "eq":
      return same(value, operand)
    case "ne":
      return !same(value, operand)
    case "in":
      return operand.some((each) => same(value, each))
    case "not_in":
      return !operand.some((each) => same(value, each))
    case "gt":
      return order(value, operand) > 0
    case "gte":
      return order(value, operand) >= 0
    case "lt":
      return order(value, operand) < 0
    case "lte":
      return order(value, operand) <= 0
    case "contains":
      if (isText) return typeof operand === "string" && value.includes(operand)
      return Array.isArray(value) && value.some((each) => same(each, operand))
    case "starts_with":
      return isText && value.startsWith(operand)
    case "ends_with":
      return isText && value.endsWith(operand)
    case "matches":
      return isText && globOf(operand).test(value)
    case "exists":
      return operand
    case "type":
      return [].concat(operand).includes(Array.isArray(value) ? "array" : typeof value)
  }
  throw new Error(name)
}

function same(value, operand) {
  if (typeof value !== typeof operand || typeof value === "object") return false
  if (value === operand) return true
  const moment = momentOf(operand)
  return moment !== null && moment === momentOf(value)
}

// NaN where they cannot be compared.
function order(value, operand) {
  if (typeof value !== typeof operand || typeof value === "boolean" || typeof value === "object") return NaN
  if (typeof value === "number") return value - operand
  const moment = momentOf(operand)
  const other = moment === null ? null : momentOf(value)
  if (other !== null) return other < moment ? -1 : other > moment ? 1 : 0
  return compareText([...value], [...operand])
}

function compareText(one, other) {
  for (let index = 0; index < one.length && index < other.length; index++) {
    const difference = one[index].codePointAt(0) - other[index].codePointAt(0)
    if (difference) return difference
  }
  return one.length - other.length
}

// Microseconds, as BigInt: a number of JavaScript does not hold them all.
function momentOf(value) {
  const found = typeof value === "string" && MOMENT.exec(value)
  if (!found) return null
  const [, day, time, fraction = "", zone = "Z"] = found
  const offset = /^[+-]\d\d$/.test(zone) ? zone + ":00" : /^[+-]\d{4}$/.test(zone) ? zone.slice(0, 3) + ":" + zone.slice(3) : zone
  const parsed = Date.parse(`${day}T${time}${offset.toUpperCase()}`)
  return Number.isNaN(parsed) ? null : BigInt(parsed) * 1000n + BigInt(fraction.padEnd(6, "0"))
}

const globs = new Map()

// A glob as Python's fnmatch reads it.
function globOf(glob) {
  let made = globs.get(glob)
  if (!made) globs.set(glob, (made = new RegExp(`^${patternOf([...glob])}$`, "su")))
  return made
}

function patternOf(glob) {
  let pattern = ""
  for (let index = 0; index < glob.length; index++) {
    const sign = glob[index]
    let end = -1
    if (sign === "[") {
      end = glob.indexOf("]", index + (glob[index + 1] === "!" ? 3 : 2))
    }
    if (sign === "*") pattern += ".*"
    else if (sign === "?") pattern += "."
    else if (end < 0) pattern += sign.replace(/[\\^$.*+?()[\]{}|/]/, "\\$&")
    else {
      const inner = glob.slice(index + 1, end).join("")
      const members = inner.replace(/^!/, "").replace(/[\\\]^[&~]/g, "\\$&")
      pattern += `[${inner.startsWith("!") ? "^" : ""}${members}]`
      index = end
    }
  }
  return pattern
}
