"""The catalogue for people and programs: read from the broker, and written as dbt sources, JSON Schema, TypeScript types, a tracking plan."""
