"""What Snowplow's trackers need beside their protocol: schemas of a folder, and the events that test suites ask for."""
