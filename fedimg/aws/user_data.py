"""Cloud-init user data that gives an instance keys made for it; how it is reached is ssh.py's."""

from __future__ import annotations

import json

from fedimg.ssh import Identity


def user_data(*, host_key: Identity, client_key: Identity) -> str:
    """A `#cloud-config` that pins the SSH host key and lets the client key in as the default user.

    cloud-init installs the keys of `ssh_keys` and then generates none; top-level
    `ssh_authorized_keys` goes to the image's default user (cloud-init, "SSH" module). The text
    takes about 1 KiB of the 16 KiB that EC2 allows. Equal keys give equal text: RunInstances
    refuses a repeated client token whose user data differ.
    """
    config = {
        "ssh_authorized_keys": [client_key.public],
        # An image may have been shipped with host keys by mistake; everybody knows those.
        "ssh_deletekeys": True,
        "ssh_keys": {
            "ed25519_private": host_key.private_text,
            "ed25519_public": host_key.public,
        },
    }
    # JSON is YAML, without any of its surprises.
    return "#cloud-config\n" + json.dumps(config, indent=1) + "\n"
