"""Write an image into a snapshot, by a utility instance or by EBS direct.

The package downloads, verifies, decompresses and writes. `aws.amis` registers AMIs from the
snapshot. The package imports `aws.instance`, `aws.client`, `sources` and `ssh`.
"""
