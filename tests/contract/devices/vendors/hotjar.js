// Stands in for Hotjar's script: takes the queue of the tracking code. https://help.hotjar.com/hc/en-us/articles/4405109971095-Events-API-Reference
;(() => {
  window.loads = (window.loads || 0) + 1
  window.told = []
  const waiting = window.hj.q || []
  if (!window._hjSettings.hjid) throw new Error("no site")
  window.hj = (...words) => void window.told.push(words)
  waiting.forEach((words) => window.hj(...words))
})()
