"""Define valid ids of Koji tasks, Koji builds and Pungi composes, and Koji's image methods.

fedmsg-hub and the consumer load this module instead of the Koji client and productmd.
"""

import re

#: Koji's image methods → the method of the child tasks that hold the files; a task without such a
#: child holds its files itself.
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
#: A compose's id as productmd makes it: it ends with the date, the suffix of the compose's type if
#: it has one, and a number.
COMPOSE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}-([0-9]{8})(\.[a-z]{1,8})?\.[0-9]{1,4}")
#: Pungi's states of a compose that is complete, or lacks only optional parts.
FINISHED = ("FINISHED", "FINISHED_INCOMPLETE")
