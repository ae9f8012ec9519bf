"""Instances: launched, found and ended, with network, keys and user data; and attempts to use them.

The package starts an instance, logs in and ends it. What is done on an instance is decided by
`aws.write` and `aws.boot`, which import this package.
"""
