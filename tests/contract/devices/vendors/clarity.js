// Stands in for Clarity's tag: takes the queue of the snippet. https://learn.microsoft.com/en-us/clarity/setup-and-installation/clarity-api
;(() => {
  window.loads = (window.loads || 0) + 1
  window.told = []
  const waiting = window.clarity.q || []
  window.clarity = (...words) => void window.told.push(words)
  waiting.forEach((words) => window.clarity(...words))
})()
