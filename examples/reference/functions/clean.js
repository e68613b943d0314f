// Drops what no analyst wants to see, and gives every order a rounded total.

export default function (event, ctx) {
  if (event.context?.page?.path?.startsWith("/internal/")) return "drop"
  if (event.event === "Order Completed") {
    event.properties.total = Math.round(event.properties.total * 100) / 100
    event.properties.market = ctx.props.MARKET
    return event
  }
}
