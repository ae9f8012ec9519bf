"""What the EC2 process is made of, one verb a file; the process itself is `fedimg.services.ec2`.

The modules here act on AMIs, snapshots and regions. The packages below are imported by them in
this order: `boot`, `write`, `instance`, `client`. Nothing here knows of queue, bus or database.
"""
