"""Commands on an instance over SSH, with a pinned host key, in a process of their own.

`client` is what the worker calls; `process` is the process that it starts, which talks to the
machine by `connection` and to the worker by `protocol`. Which commands are run is the caller's
decision.
"""
