"""Device destinations: they run in the visitor's browser, where the script of `ingest/browser/` hands them events. No service loads them."""
