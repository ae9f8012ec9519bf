"""Make a bundle of an image: the parts and the manifest from which an instance-store AMI is made.

A bundle is the image in a tar archive, compressed, encrypted and cut into parts, and a manifest,
which is signed. The package makes them of bytes. What registers and boots AMIs is elsewhere.
"""
