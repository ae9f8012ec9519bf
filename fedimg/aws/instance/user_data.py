"""Write cloud-init user data that installs the keys of one attempt."""

from __future__ import annotations

import json
from typing import Any

from fedimg.ssh.client import Identity


def user_data(*, host_key: Identity, client_key: Identity | None, early: str = "") -> str:
    """Return a `#cloud-config` that installs the SSH host key and authorizes the client key.

    cloud-init installs the keys of `ssh_keys` and then generates none; top-level
    `ssh_authorized_keys` goes to the image's default user (cloud-init, "SSH" module). Without a
    `client_key`, an EC2 key pair authorizes the login. `early` is a script for /bin/sh, run as root
    at each boot before users and keys are created (cloud-init, "Bootcmd" module). The text has to
    stay within the 16 KiB that EC2 allows. Equal keys give equal text, since RunInstances refuses a
    repeated client token with other user data.
    """
    config: dict[str, Any] = {
        # Host keys that an image was shipped with by mistake are public.
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
    # JSON is valid YAML, and unambiguous.
    return "#cloud-config\n" + json.dumps(config, indent=1) + "\n"
