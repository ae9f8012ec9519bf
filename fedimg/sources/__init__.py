"""The sources of images: Koji hubs, composes, and the file servers that hold their files.

The package asks, within limits of time and size, and returns values. Which of these images are
published is `intake`'s decision, and their bytes are read by `aws.write`. It imports `config`,
values and `untrusted`.
"""
