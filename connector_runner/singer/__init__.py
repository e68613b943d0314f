"""The Singer specification: messages and catalogues. Pure; `sources/singer/` runs the taps."""
