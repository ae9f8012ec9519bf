"""Turns announcements into jobs: accepts messages, chooses images, and finds missed builds.

`announcement` runs inside the hub and the consumer, and loads no Koji client; the rest runs in the
worker. The package imports `sources`, `jobs` and `store`.
"""
