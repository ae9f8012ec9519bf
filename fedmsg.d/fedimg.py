"""fedimg's part of the fedmsg configuration, for /etc/fedmsg.d; the rest is in fedimg.toml."""

import os
import sys

config = {
    # Listen for Koji's image builds in this machine's fedmsg-hub, which does not start without.
    # Where that should listen for other things alone, uninstall fedimg there.
    "fedimg.consumers.KojiConsumer.enabled": True,
    # The consumer takes messages of the bus's own topic_prefix and environment, and announcements
    # go out through relay_inbound, to be seen back on endpoints["relay_outbound"]: all four are
    # set in the machine's other files here, and so are signatures (sign_messages,
    # validate_signatures). `fedimg check` says what is missing.
}

# Every fedmsg program runs this file; only in the hub may it cost, or do, anything.
if os.path.basename(sys.argv[0]).startswith("fedmsg-hub"):
    from fedimg.hub import require_consumer

    require_consumer()
