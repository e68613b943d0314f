"""Service: brings each frame of a site to the queues of the site's connections, filtered and without repeats.

Start with `router/site.py` for the path of a frame, `router/forwarding/forwarder.py` for the promise to each connection,
`router/rules/match.py` for the rules.
"""
