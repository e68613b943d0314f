"""The state of a project, and whether its counts add up."""
