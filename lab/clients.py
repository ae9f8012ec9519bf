"""The files that point clients at a site: AWS's, and a fedimg.toml that fits the lab.

The keys of fedimg.toml are fedimg's; what is written here is what differs from its defaults.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from lab.access_keys import AccessKey
from lab.machines.qemu import LAB_ADDRESS

# Whose builds the site's fedimg takes; anybody else's are there to be refused.
BUILD_OWNERS = ("releng",)
SCRATCH_OWNERS = ("ausil",)

# What fedimg calls the site.
SITE_NAME = "lab"


def aws_environment(folder: Path, endpoint: str, region: str, key: AccessKey) -> dict[str, str]:
    """Write AWS's two files into `folder`; the variables that lead every SDK to the endpoint.

    The keys are given as variables too, since those go before files: keys of the user's own never
    reach the lab, nor the lab's calls AWS.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config, credentials = folder / "config", folder / "credentials"
    # In some regions an SDK signs URLs as S3 takes them for old buckets alone.
    config.write_text(
        f"[default]\nregion = {region}\nendpoint_url = {endpoint}\n"
        "s3 =\n    signature_version = s3v4\n"
    )
    write_secret(
        credentials,
        f"[default]\naws_access_key_id = {key.id}\naws_secret_access_key = {key.secret}\n",
    )
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_CONFIG_FILE": str(config),
        "AWS_SHARED_CREDENTIALS_FILE": str(credentials),
        "AWS_PROFILE": "default",
        "AWS_DEFAULT_REGION": region,
        "AWS_ACCESS_KEY_ID": key.id,
        "AWS_SECRET_ACCESS_KEY": key.secret,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1,localhost",
    }


def write_secret(file: Path, text: str) -> None:
    """Write a file that its owner alone may read, whoever could read the one before."""
    new = file.with_name(f"{file.name}.new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600, exist_ok=False)
    new.write_text(text)
    new.replace(file)


@dataclass(frozen=True)
class Deployment:
    """A site, as fedimg's settings have it. `utility_amis`: architecture to AMI, in the origin."""

    state_directory: Path
    koji_hub: str
    koji_files: str
    origin: str
    utility_amis: Mapping[str, str]
    login_user: str
    ssh_port: int
    vm: bool = False
    # Tables of instance-store AMIs. The image of virtual machines has no openssl, by which utility
    # instances make bundles.
    instance_store: str = ""

    @property
    def files_for_instances(self) -> str:
        """The address of the site's files for an instance of any image.

        Of virtual machines, those of the lab's own image alone find the lab at 127.0.0.1.
        """
        if not self.vm:
            return self.koji_files
        parts = urlsplit(self.koji_files)
        return parts._replace(netloc=f"{LAB_ADDRESS}:{parts.port or 80}").geturl()


def fedimg_toml(deployment: Deployment) -> str:
    """Return the text of a fedimg.toml for this deployment: short limits, since nothing here is
    far.

    Virtual machines get longer ones: emulated, they take their time.
    """
    ssh_ready, write, write_idle = (600, 1800, 180) if deployment.vm else (30, 300, 30)
    machines = "".join(
        f"\n[ec2.{architecture}]\nutility_ami = {_text(ami)}\n"
        for architecture, ami in deployment.utility_amis.items()
    )
    return f"""\
# fedimg on a lab site; written anew at each start of the site.
site = {_text(SITE_NAME)}
state_directory = {_text(deployment.state_directory)}

[koji]
hub = {_text(deployment.koji_hub)}
topurl = {_text(deployment.koji_files)}
build_owners = {_list(BUILD_OWNERS)}
scratch_owners = {_list(SCRATCH_OWNERS)}
timeout = 10
retry_seconds = 2

[ec2]
origin = {_text(deployment.origin)}
login_user = {_text(deployment.login_user)}
test_user = {_text(deployment.login_user)}
{'write_via = "direct"' if deployment.vm and deployment.instance_store else ""}
# The site's Koji has no certificate.
plain_http_hosts = [{_text(urlsplit(deployment.koji_files).hostname or "")}]
{machines}{deployment.instance_store}
[ec2.network]
ssh_port = {deployment.ssh_port}
allowed_source = "127.0.0.1/32"

[ec2.limits]
instance_running = 60
instance_gone = 60
ssh_ready = {ssh_ready}
write = {write}
write_idle = {write_idle}
snapshot = 120
copy = 120
image = 60
image_gib = 4
wait_minimum = 0.2
wait_maximum = 1

[worker]
stop_seconds = 3

[ec2.test]
reach = [{_text(deployment.files_for_instances)}]
resolve = ["localhost"]
clock = {_text(deployment.files_for_instances)}

[[checks]]
name = "cloud-init made the user"
command = "id -un"
output = "^{deployment.login_user}$"
"""


def _text(value: str | Path) -> str:
    # JSON's strings are TOML's basic strings.
    return json.dumps(str(value))


def _list(values: Sequence[str]) -> str:
    return json.dumps(list(values))
