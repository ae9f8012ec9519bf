"""The worker: its process, workflows and background tasks, and how several workers share one database.

The package joins `intake`, `jobs`, `services` and `bus` into a process. Only `cli` imports it.
"""
