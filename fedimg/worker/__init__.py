"""The worker: its process, workflows and background tasks, and several workers on one database.

The package joins `intake`, `jobs`, `services` and `bus` into a process. Only `cli` imports it.
"""
