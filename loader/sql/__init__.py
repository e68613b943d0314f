"""What SQL warehouses share: the dialect, merges, and which rows are refused."""
