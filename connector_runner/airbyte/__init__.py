"""The Airbyte protocol: messages, catalogues and the judgement of a run. Pure; `sources/airbyte/` runs the programs."""
