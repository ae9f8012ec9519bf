"""Cloud-init user data that gives an instance keys made for it; how it is reached is ssh.py's."""

from __future__ import annotations

import json
from typing import Any

from fedimg.ssh.client import Identity


def user_data(*, host_key: Identity, client_key: Identity | None, early: str = "") -> str:
    """A `#cloud-config` that pins the SSH host key and lets the client key in as the default user.

    cloud-init installs the keys of `ssh_keys` and then generates none; top-level
    `ssh_authorized_keys` goes to the image's default user (cloud-init, "SSH" module). Without a
    `client_key` a key pair of EC2's is to let somebody in. `early` is a script for /bin/sh, run as
    root by each boot before users and keys are made (cloud-init, "Bootcmd" module). The text has to
    stay within the 16 KiB that EC2 allows. Equal keys give equal text: RunInstances refuses a
    repeated client token whose user data differ.
    """
    config: dict[str, Any] = {
        # An image may have been shipped with host keys by mistake; everybody knows those.
        "ssh_deletekeys": True,
        "ssh_keys": {
            "ed25519_private": host_key.private_text,
            "ed25519_public": host_key.public,
        },
    }
    if client_key is not None:
        config["ssh_authorized_keys"] = [client_key.public]
    if early:
        config["bootcmd"] = [["/bin/sh", "-c", early]]
    # JSON is YAML, without any of its surprises.
    return "#cloud-config\n" + json.dumps(config, indent=1) + "\n"
