"""What the loader costs: into warehouses, queues and cloud services, and its steps alone."""
