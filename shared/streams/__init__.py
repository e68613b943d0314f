"""The state of the streams: how full they are, which events wait or have ended, which frames are wanted again."""
