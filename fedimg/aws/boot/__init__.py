"""The boot check: a test instance boots an AMI, lets its user in, and passes every check.

The package judges one AMI. Which AMIs are booted is decided by `services.boot_checks`. It imports
`aws.instance`, `aws.client` and `ssh`.
"""
