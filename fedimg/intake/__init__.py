"""From an announcement to jobs: which messages count, which images are published, what was missed.

`announcement` runs inside the hub and the consumer, and loads no Koji client; the rest runs in the
worker. The package imports `sources`, `jobs` and `store`.
"""
