"""What the EC2 process is made of, one verb a file; the process itself is `fedimg.services.ec2`.

The modules here act on AMIs, snapshots and regions by the calls of `client`. `instance`, `write`
and `boot` are built on them. Nothing in the package knows of queue, bus or database.
"""
