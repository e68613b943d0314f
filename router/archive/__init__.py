"""Archives the accepted events of each site; `shared/archive/` says how an archive is laid out."""
