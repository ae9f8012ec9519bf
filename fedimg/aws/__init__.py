"""Everything that fedimg does in AWS.

`client` makes the calls, `instance` runs instances, `write` and `boot` are the two steps on them;
the modules beside them are the other steps. The order of the steps is decided by `services`;
`lifecycle`, `worker` and the command line call what they need beside it.
"""
