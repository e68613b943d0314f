// Stands in for array.js without its snippet: `posthog.init` makes the main instance, or one with a name. https://posthog.com/docs/references/posthog-js
;(() => {
  window.loads = (window.loads || 0) + 1
  window.told = []
  const names = ["capture", "identify", "alias", "group", "setPersonProperties", "reset"]
  const instance = (token) => {
    let isOut = localStorage.getItem("ph_out") === "1"
    const turn = (name, out) => (...words) => {
      localStorage.setItem("ph_out", out ? "1" : "0")
      isOut = out
      window.told.push([name, ...words, token])
    }
    return {
      ...Object.fromEntries(names.map((name) => [name, (...words) => isOut || window.told.push([name, ...words, token])])),
      opt_out_capturing: turn("opt_out_capturing", true),
      opt_in_capturing: turn("opt_in_capturing", false),
      has_opted_out_capturing: () => isOut,
    }
  }
  window.posthog = {
    init(token, config, name) {
      window.told.push(["init", token, config, ...(name ? [name] : [])])
      if (name) return (window.posthog[name] = instance(token))
      return Object.assign(window.posthog, instance(token))
    },
  }
})()
