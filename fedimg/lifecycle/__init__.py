"""The life of AMIs after they were made: compared with EC2, withdrawn, restored, removed.

The package acts through `aws`, and records in `store` and `jobs`. It makes no AMIs, as `services`
does. Only `worker` and `cli` import it.
"""
