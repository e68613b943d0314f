// Stands in for a container: takes what waits in the data layer, then each push; merges objects into one model as Google does, `model`.
// https://developers.google.com/tag-platform/tag-manager/datalayer
;(() => {
  window.loads = (window.loads || 0) + 1
  window.google_tag_manager = { "GTM-ABC123": {} }
  window.told = []
  window.model = {}
  const isPlain = (value) => value !== null && typeof value === "object" && !Array.isArray(value)
  const merge = (into, from) => {
    for (const key of Object.keys(from)) {
      if (isPlain(from[key]) && isPlain(into[key])) merge(into[key], from[key])
      else into[key] = structuredClone(from[key])
    }
  }
  const take = (entry) => {
    if (Object.prototype.toString.call(entry) === "[object Arguments]") return window.told.push([...entry])
    merge(window.model, entry)
    window.told.push(["push", structuredClone(entry)])
  }
  window.dataLayer.forEach(take)
  window.dataLayer.push = (...entries) => {
    Array.prototype.push.apply(window.dataLayer, entries)
    if (window.dataLayer.length > 300) window.dataLayer.shift()
    entries.forEach(take)
  }
})()
