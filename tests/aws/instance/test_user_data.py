from dataclasses import replace

import asyncssh
import yaml

from fedimg.aws.instance import scripts
from fedimg.aws.instance.user_data import user_data
from fedimg.ssh import client

HOST = client.new_identity("host")
CLIENT = client.new_identity("client")


def test_the_instance_gets_the_host_key_made_for_it_and_no_other() -> None:
    text = user_data(host_key=HOST, client_key=CLIENT)
    assert text.startswith("#cloud-config\n")
    config = yaml.safe_load(text)
    assert config == {
        "ssh_authorized_keys": [CLIENT.public],
        "ssh_deletekeys": True,
        "ssh_keys": {"ed25519_private": HOST.private_text, "ed25519_public": HOST.public},
    }
    installed = asyncssh.import_private_key(config["ssh_keys"]["ed25519_private"])
    assert installed.get_fingerprint() == asyncssh.import_public_key(HOST.public).get_fingerprint()


def test_user_data_holds_no_private_client_key() -> None:
    secret = CLIENT.private_text.splitlines()[2]
    assert secret not in user_data(host_key=HOST, client_key=CLIENT)


def test_user_data_is_the_same_each_time_and_within_ec2s_limit() -> None:
    text = user_data(host_key=HOST, client_key=CLIENT)
    assert text == user_data(host_key=replace(HOST), client_key=replace(CLIENT))
    assert len(text.encode()) < 2048


def test_user_data_names_no_client_key_when_a_key_pair_is_used() -> None:
    config = yaml.safe_load(user_data(host_key=HOST, client_key=None))
    assert set(config) == {"ssh_deletekeys", "ssh_keys"}


def test_early_script_is_unchanged_in_the_user_data() -> None:
    script = scripts.text("boot/check_scripts/shipped.sh")
    text = user_data(host_key=HOST, client_key=None, early=script)
    assert yaml.safe_load(text)["bootcmd"] == [["/bin/sh", "-c", script]]
    assert len(text.encode()) < 8192
