"""The kit of SQL warehouses: the dialect, the ledger, patches, loads, merges, and refused rows."""
