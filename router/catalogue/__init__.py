"""The catalogue of a site: every name is counted, and properties are sampled, off the way of events."""
