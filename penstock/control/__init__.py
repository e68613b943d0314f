"""What can be done with a running project, without a screen."""
