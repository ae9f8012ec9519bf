"""What the EC2 process is made of, one verb a file; the process itself is fedimg.services.ec2."""
