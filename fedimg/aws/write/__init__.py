"""An image's bytes become a snapshot, by a utility instance or by EBS direct.

The package downloads, checks, decompresses and writes. Registering AMIs from the snapshot is
`aws.amis`'s work. It imports `aws.instance`, `aws.client`, `sources` and `ssh`.
"""
