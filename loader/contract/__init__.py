"""The contracts of destinations, and the trials of `penstock check`."""
