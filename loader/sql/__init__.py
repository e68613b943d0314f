"""What SQL warehouses share: quoting, and how a refused batch is split."""
