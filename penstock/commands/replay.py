"""`penstock replay`: accepted events of a time range, once more."""
