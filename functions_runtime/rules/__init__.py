"""What is done to events around the functions, without doing anything else."""
