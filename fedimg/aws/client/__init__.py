"""Calls to AWS: clients, retries, rate limits, error codes, and the one waiter.

Every call that fedimg makes to AWS goes through this package. It knows no step of publishing; the
rest of `aws` imports it, and it imports nothing of the rest.
"""
