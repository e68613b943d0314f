"""The event, the frame that carries it, what becomes of it at a stage, and the dead letter."""
