"""The lab's EC2: strict where moto is not, moto where it is right; `server.EC2` starts it."""

import os

# moto reads this when it is first imported; its list of public images is 130 MB and never used.
os.environ.setdefault("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
