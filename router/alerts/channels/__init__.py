"""One file for each channel of alerts. The contract is `router/alerts/contract.py`."""
