"""Snowplow's table `atomic.events`: its columns, and what fills them out of a canonical event. Pure."""
