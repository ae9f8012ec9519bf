"""Calls to AWS: clients, retries, rate limits, error codes, and the one waiter.

Every call of fedimg to AWS goes through this package. It knows no step of publishing; the other
packages of `aws` import it, and it imports none of them.
"""
