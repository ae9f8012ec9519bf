"""The worker: its process, workflows and background tasks, and several workers on one database.

The package combines `intake`, `jobs`, `services` and `bus` in a process. Only `cli` imports it.
"""
