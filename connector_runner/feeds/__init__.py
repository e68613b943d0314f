"""Feeds: endless sources whose records become events of a site. `contract.py` says what a plug-in does, `worker.py` runs one."""
