"""Shared by SQL warehouses behind a network: sessions over one link, the clock over each call, the meaning of drivers' errors."""
