"""fedimg's part of the fedmsg configuration, for /etc/fedmsg.d; the rest is in fedimg.toml.

fedmsg merges all files there in the order of their names: a site says what is its own in a file
that comes later, such as site.py, and leaves this one as it was shipped. docs/security.md has an
example.
"""

import os
import sys

config = {
    # Listen for Koji's image builds in this machine's fedmsg-hub, which does not start without.
    # Where that should listen for other things alone, uninstall fedimg there.
    "fedimg.consumers.KojiConsumer.enabled": True,
    # The consumer takes messages of the bus's own topic_prefix and environment, and announcements
    # go out through relay_inbound, to be seen back on endpoints["relay_outbound"]: all four are
    # set in the machine's other files here. `fedimg check` says what is missing.
    #
    # Messages are taken when they are signed alone, with a certificate that this authority has
    # issued and has not revoked since. Files, not addresses: those would be asked again for every
    # bad message.
    "validate_signatures": True,
    "crypto_backend": "x509",
    "crypto_validate_backends": ["x509"],
    "ca_cert_location": "/etc/pki/fedmsg/ca.crt",
    "crl_location": "/etc/pki/fedmsg/crl.pem",
    # Who may send them, by the names on their certificates: nobody, until the site says so in a
    # file of its own, as {"org.fedoraproject.prod.buildsys.build.state.change": ["koji-…"], …}.
    "routing_policy": {
        f"org.fedoraproject.{environment}.{topic}": []
        for environment in ("prod", "stg", "dev")
        for topic in (
            "buildsys.build.state.change",
            "buildsys.task.state.change",
            "pungi.compose.status.change",
        )
    },
}

# Every fedmsg program runs this file; only in the hub may it cost, or do, anything.
if os.path.basename(sys.argv[0]).startswith("fedmsg-hub"):
    from fedimg.bus.hub import require_consumer

    require_consumer()
