"""The clouds that fedimg publishes to, one service a file: `ec2` is the page to read.

A service makes public AMIs of one image by the verbs of `aws`. It knows nothing of queue, bus or
database: its effects run through `fedimg.steps`, and it tells `fedimg.progress` what happens.
"""
