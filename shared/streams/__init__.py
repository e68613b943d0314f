"""The state of the streams: how full they are, what waits, what was taken, which frames are wanted again."""
