"""fedimg's part of the fedmsg configuration, for /etc/fedmsg.d; the rest is in fedimg.toml.

fedmsg merges all files of that directory in the order of their names: put the site's own settings
into a file that comes later, such as site.py, and leave this file unchanged. docs/security.md has
an example.
"""

import os
import sys

config = {
    # Run fedimg's consumer in this machine's fedmsg-hub. With False, fedmsg-hub refuses to start:
    # to run it without fedimg, uninstall fedimg.
    "fedimg.consumers.KojiConsumer.enabled": True,
    # The machine's other files here set topic_prefix and environment, of which the consumer
    # receives messages, relay_inbound, to which announcements are sent, and
    # endpoints["relay_outbound"], on which the relay confirms them. `fedimg check` says what is
    # missing.
    #
    # Only messages that are signed with a certificate of this authority are accepted, unless it has
    # revoked the certificate. The locations are files, because fedmsg would fetch URLs again for
    # each invalid message.
    "validate_signatures": True,
    "crypto_backend": "x509",
    "crypto_validate_backends": ["x509"],
    "ca_cert_location": "/etc/pki/fedmsg/ca.crt",
    "crl_location": "/etc/pki/fedmsg/crl.pem",
    # The permitted signers of each topic, by the names in their certificates. There are none until
    # the site's own file names them, as in
    # {"org.fedoraproject.prod.buildsys.build.state.change": ["koji-…"], …}.
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

# Every fedmsg program runs this file; only fedmsg-hub needs the check for the consumer.
if os.path.basename(sys.argv[0]).startswith("fedmsg-hub"):
    from fedimg.bus.hub import require_consumer

    require_consumer()
