"""What stands in the streams: how full they are, what waits, what was taken, what is asked for again."""
