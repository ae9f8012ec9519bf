"""What an id is of a Koji task, a Koji build and a Pungi compose, and which of them make images.

The hub's process loads this in place of the Koji client and of productmd.
"""

import re

#: Koji's image methods, and the method of the children that hold the files, one a child; a task
#: that has no such child holds them itself.
METHODS = {
    "image": "createImage",
    "kiwiBuild": "createKiwiImage",
    "imageBuilderBuild": "imageBuilderBuildArch",
    "osbuildImage": None,
    "livemedia": "createLiveMedia",
    "appliance": "createAppliance",
}
#: Koji's ids are PostgreSQL integers.
LARGEST_ID = 2**31 - 1
#: A compose's id ends with its date, the suffix of its type where it has one, and its number, as
#: productmd makes it.
COMPOSE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}-([0-9]{8})(\.[a-z]{1,8})?\.[0-9]{1,4}")
#: Pungi's words for a compose that is whole, or lacks only what it may lack.
FINISHED = ("FINISHED", "FINISHED_INCOMPLETE")
