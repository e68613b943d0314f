// Stands in for LogRocket.min.js: calls before `init` fail. https://docs.logrocket.com/docs/quickstart
;(() => {
  window.loads = (window.loads || 0) + 1
  window.told = []
  let app = null
  const call = (name) => (...words) => {
    if (name === "init") app = words[0]
    if (!app) throw new Error("init comes first")
    window.told.push([name, ...words])
  }
  window.LogRocket = Object.fromEntries(["init", "identify", "track", "startNewSession"].map((name) => [name, call(name)]))
})()
