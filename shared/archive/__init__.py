"""The archive: every accepted event of a site as it was received, in objects named by sequence.

    raw/site=<site>/index.json                                    the days and streams that the archive has (`layout.Index`)
    raw/site=<site>/dt=YYYY-MM-DD/manifest.json                   the objects of a day (`layout.Manifest`)
    raw/site=<site>/dt=YYYY-MM-DD/hr=HH/<first>-<last>.ndjson.zst  one event a line (`lines.py`)

An object is in the archive once a manifest names it. A writer puts the object first and the manifest behind it, and the manifest is
its position: after a crash it removes objects that no manifest names, and goes on behind the last one that a manifest names. So
nothing is lost or twice, at any place of the kill.

One holder at a time writes a site: the router that archives it, or a rewrite, under the lease `archive.<site>` and its epoch.

- `layout.py`: names and manifests, pure. `lines.py`: frames to lines and back, pure.
- `place.py`: which store. `books.py`: reads and writes manifests. `reader.py`: frames of a range, for replay.
- `rewrite.py`: `rewrite(...)` takes the events of people out of all objects and repairs the manifests.
- `verify.py`: compares manifests with objects. `expire.py`: removes old days.
- `note.py`: how far a site is archived, for status and routers.
"""
