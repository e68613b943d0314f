// Stands in for array.js without its snippet: `posthog.init` makes the main instance, or one with a name. https://posthog.com/docs/references/posthog-js
;(() => {
  window.loads = (window.loads || 0) + 1
  window.told = []
  const names = ["capture", "identify", "alias", "group", "setPersonProperties", "reset"]
  const instance = (token) => Object.fromEntries(names.map((name) => [name, (...words) => window.told.push([name, ...words, token])]))
  window.posthog = {
    init(token, config, name) {
      window.told.push(["init", token, config, ...(name ? [name] : [])])
      if (name) return (window.posthog[name] = instance(token))
      return Object.assign(window.posthog, instance(token))
    },
  }
})()
