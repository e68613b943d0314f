"""What SQL warehouses behind a network share: sessions over one link, the clock over each call, what the errors of their drivers mean."""
