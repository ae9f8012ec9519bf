"""A whole site on one machine: an EC2 whose instances run, a Koji, a bus; nothing of fedimg."""
