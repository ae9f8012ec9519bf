"""Commands on an instance over SSH, with a pinned host key, in a separate process.

The worker calls `client`, which starts `process`; that process logs in to the machine by
`connection`, runs commands in the `session`, and talks to the worker by `protocol`. The caller
decides which commands are run.
"""
