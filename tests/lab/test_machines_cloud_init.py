"""User data as an instance honours it."""

import base64
import gzip
import time
from collections.abc import Iterator
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText

import paramiko
import pytest

from lab.machines.cloud_init import CloudInit, User, read
from tests.lab.machines_fixtures import Key, Rig, rig

pytestmark = pytest.mark.process

KEY = "ssh-ed25519 AAAA one"
OTHER = "ssh-ed25519 BBBB two"


@pytest.fixture(scope="module")
def site(processes: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with rig(tmp_path_factory.mktemp("machines")) as made:
        yield made


def parsed(text: str | bytes, public_key: str | None = None) -> CloudInit:
    data = text.encode() if isinstance(text, str) else text
    return read(data, public_key=public_key, default_user="fedora")


def people(cloud: CloudInit) -> dict[str, User]:
    return {user.name: user for user in cloud.users}


def test_top_level_keys_and_the_key_pair_are_the_default_users() -> None:
    cloud = parsed(f"#cloud-config\nssh_authorized_keys: ['{KEY}']\n", public_key=f"{OTHER}\n")
    assert people(cloud)["fedora"].authorized_keys == (KEY, OTHER)
    assert people(cloud)["fedora"].sudo
    assert all("Please login as the user" in key for key in people(cloud)["root"].authorized_keys)


def test_only_the_named_users_exist() -> None:
    cloud = parsed(
        "#cloud-config\nusers:\n  - default\n  - name: alice\n"
        f"    ssh_authorized_keys: ['{KEY}']\n    sudo: ALL=(ALL) NOPASSWD:ALL\n  - bob\n"
    )
    assert list(people(cloud)) == ["root", "fedora", "alice", "bob"]
    assert people(cloud)["alice"] == User("alice", (KEY,), ("ALL=(ALL) NOPASSWD:ALL",))
    assert people(cloud)["bob"] == User("bob", (), ())
    assert list(people(parsed("#cloud-config\nusers: []\n", KEY))) == ["root"]
    assert list(people(parsed("#cloud-config\nuser: ec2-user\n", KEY))) == ["root", "ec2-user"]


@pytest.mark.parametrize(
    "text",
    [
        "#cloud-config\nusers: [unclosed\n",
        "#cloud-config\n- a list\n",
        "#cloud-config\nssh_keys: 3\nusers: [{name: ../x}]\n",
        "#include http://127.0.0.1/\n",
        "#cloud-config\nwrite_files: [{path: /x, encoding: b64, content: '???!'}, 4]\n",
        "#cloud-config\nruncmd: [{a: b}]\n",
        b"\xff\xfe binary",
        b"#cloud-config\n\xff: 1\n",
    ],
)
def test_unknown_keys_are_warned_of_and_left_out(text: str | bytes) -> None:
    cloud = parsed(text, public_key=KEY)
    assert cloud.warnings
    assert people(cloud)["root"]


def test_no_user_data_is_no_warning() -> None:
    assert parsed("").warnings == ()
    assert parsed("#cloud-config\n").warnings == ()


def test_parts_come_packed_and_mixed() -> None:
    message = MIMEMultipart()
    message.attach(MIMEText("#cloud-config\nhostname: one\n", "cloud-config"))
    message.attach(MIMEText("#!/bin/sh\necho hello\n", "x-shellscript"))
    cloud = parsed(gzip.compress(message.as_bytes()))
    assert cloud.hostname == "one"
    assert [script.strip() for script in cloud.late] == [b"#!/bin/sh\necho hello"]
    assert cloud.warnings == ()


def test_files_are_decoded() -> None:
    packed = base64.b64encode(gzip.compress(b"packed")).decode()
    cloud = parsed(
        "#cloud-config\nwrite_files:\n"
        f"  - {{path: /a, encoding: gz+b64, content: {packed}, permissions: 0600}}\n"
        "  - {path: /b, content: plain, append: true}\n"
    )
    found = [(file.path, file.content, file.mode, file.append) for file in cloud.files]
    assert found == [("/a", b"packed", 0o600, False), ("/b", b"plain", 0o644, True)]


def test_instance_carries_out_its_user_data(site: Rig) -> None:
    alice = Key()
    launch = site.start(
        site.launch(
            user_data=site.user_data(
                "hostname: builder\n"
                "users:\n  - default\n  - name: alice\n"
                f"    ssh_authorized_keys: ['{alice.public}']\n"
                "write_files:\n  - {path: /etc/lab/file, content: written, permissions: '0600'}\n"
                "bootcmd:\n  - [sh, -c, 'echo bootcmd as $(id -un)']\n"
                "runcmd:\n  - cat /etc/lab/file\n  - echo; sleep 0.3; touch /var/lib/done\n"
            )
        )
    )
    shell = site.connect(launch)
    waited = shell("cloud-init status --wait; ls /var/lib/done; hostname")
    assert waited.output == "status: done\n/var/lib/done\nbuilder\n"
    console = site.machines.console(launch.instance_id)
    assert "bootcmd as root" in console
    assert "written" in console
    assert shell("cat /etc/lab/file").status == 1
    assert shell("sudo cat /etc/lab/file").output == "written"
    assert shell("ls -L /var/lib/cloud/instance").output == "boot-finished\nuser-data.txt\n"
    assert "VERSION_ID=28" in shell("cat /etc/os-release").output
    other = site.connect(launch, "alice", alice)
    assert other("id -un; pwd").output == "alice\n/home/alice\n"
    assert "not in the sudoers file" in other("sudo -n true").errors
    site.machines.terminate(launch.instance_id)


def test_nobody_waits_for_a_daemon_that_runcmd_leaves(site: Rig) -> None:
    more = "runcmd:\n  - sleep 7071 &\n  - echo behind it\n"
    launch = site.start(site.launch(user_data=site.user_data(more)))
    shell = site.connect(launch)
    assert shell("cloud-init status --wait").output == "status: done\n"
    assert "behind it" in site.machines.console(launch.instance_id)
    assert shell("pgrep -f 'sleep 7071'").status == 0
    site.machines.terminate(launch.instance_id)


def test_a_failing_runcmd_is_an_error_of_cloud_init(site: Rig) -> None:
    launch = site.start(site.launch(user_data=site.user_data("runcmd: [echo it; exit 3]\n")))
    answer = site.connect(launch)("cloud-init status --wait")
    assert (answer.status, answer.output) == (1, "status: error\n")
    site.machines.terminate(launch.instance_id)


def test_login_as_root_is_refused_with_advice(site: Rig) -> None:
    launch = site.start(site.launch())
    shell = site.connect(launch, "root")
    _, stdout, _ = shell.client.exec_command("true")
    line = 'Please login as the user "fedora" rather than the user "root".\n'
    assert stdout.readline() == line
    site.machines.terminate(launch.instance_id)


def test_login_as_root_is_accepted_if_user_data_allows_it(site: Rig) -> None:
    launch = site.start(site.launch(user_data=site.user_data("disable_root: false\n")))
    assert site.connect(launch, "root")("id -u; pwd").output == "0\n/root\n"
    site.machines.terminate(launch.instance_id)


def test_broken_yaml_leaves_nobody_who_can_log_in(site: Rig) -> None:
    launch = site.start(site.launch(user_data=site.user_data("users: [unclosed\n")))
    console = site.console_with(launch, "login:")
    assert "Failed loading yaml blob" in console
    assert "no authorized SSH keys fingerprints found for user fedora" in console
    # The host key was lost with the rest: another one answers.
    with pytest.raises(paramiko.BadHostKeyException):
        site.connect(launch)
    site.machines.terminate(launch.instance_id)


def test_a_generated_host_key_is_told_on_the_console(site: Rig) -> None:
    launch = site.start(site.launch(user_data=b""))
    console = site.console_with(launch, "-----END SSH HOST KEY KEYS-----")
    line = next(line for line in console.splitlines() if line.startswith("ssh-ed25519 "))
    site.console_with(launch, "login:")
    transport = paramiko.Transport((site.machines.address(launch.instance_id), 22400))
    transport.get_security_options().key_types = ("ssh-ed25519",)
    transport.start_client(timeout=10)
    assert transport.get_remote_server_key().get_base64() == line.split()[1]
    transport.close()
    site.machines.terminate(launch.instance_id)


def test_invalid_host_key_leaves_no_ssh_server(site: Rig) -> None:
    user_data = b"#cloud-config\nssh_keys: {ed25519_private: nonsense}\n"
    launch = site.start(site.launch(user_data=user_data))
    console = site.console_with(launch, "login:")
    assert "no hostkeys available" in console
    site.machines.terminate(launch.instance_id)


def test_a_key_added_by_a_script_counts(site: Rig) -> None:
    late = Key()
    script = f"#!/bin/sh\necho '{late.public}' >>/home/fedora/.ssh/authorized_keys\n"
    message = MIMEMultipart()
    message.attach(MIMEText(site.user_data().decode(), "cloud-config"))
    message.attach(MIMEText(script, "x-shellscript"))
    launch = site.start(site.launch(user_data=message.as_bytes()))
    site.console_with(launch, "login:")
    time.sleep(0.1)
    assert site.connect(launch, key=late)("true").status == 0
    site.machines.terminate(launch.instance_id)
