"""Places: a source system for each plug-in of `connector_runner/sources/`, with known rows, which the source suite reads."""
