"""Instances: launch, find, log in and terminate, with network, keys and user data.

What is done on an instance is decided by `aws.write` and `aws.boot`, which import this package.
"""
