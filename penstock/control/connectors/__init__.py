"""Connectors of a project file, asked and read without a stack."""
