// Stands in for gtag.js: takes what waits in the data layer, then each push at once; keeps the calls in `told`.
// https://developers.google.com/tag-platform/gtagjs/reference
;(() => {
  window.loads = (window.loads || 0) + 1
  if (window.google_tag_manager) return
  window.google_tag_manager = {}
  window.told = []
  const take = (entry) => window.told.push(Array.from(entry))
  window.dataLayer.forEach(take)
  window.dataLayer.push = (...entries) => {
    Array.prototype.push.apply(window.dataLayer, entries)
    if (window.dataLayer.length > 300) window.dataLayer.shift()
    entries.forEach(take)
    return window.dataLayer.length
  }
})()
