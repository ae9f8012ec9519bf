"""Intake: announcements become jobs by accepting messages, choosing images, and catching up.

`announcement` runs inside the hub and the consumer, and loads no Koji client; the rest runs in the
worker. The package imports `sources`, `jobs` and `store`.
"""
