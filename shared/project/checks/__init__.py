"""Checks of relations between parts of a project that their types cannot express."""
