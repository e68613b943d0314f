"""A project file: checked, planned, applied, compared."""
