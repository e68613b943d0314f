"""The wire protocols, one file each; the contract is `ingest/contract.py`."""
