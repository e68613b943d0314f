"""The connectors: a file each where one is small, a folder where it is large. `connector_runner/contract.py` says what one defines."""
