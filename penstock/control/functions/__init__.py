"""Functions without a stack: checked, tried on an event, held against their cases."""
