"""The boot check: a test instance boots an AMI, admits its user, and passes every check.

The package judges one AMI; `services.boot_checks` decides which AMIs are booted. It imports
`aws.instance`, `aws.client` and `ssh`.
"""
