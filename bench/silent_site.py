"""A fedimg in a folder of its own, with a bus, on an EC2 that never answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.silent import silent
from lab.access_keys import AccessKey
from lab.bus import Bus
from lab.clients import aws_environment

ORIGIN = "us-east-1"
_SETTINGS = f"""\
state_directory = "state"
[ec2]
regions = ["{ORIGIN}"]
[ec2.network]
allowed_source = "127.0.0.1/32"
"""


def settings_file(folder: Path, database: str = "") -> Path:
    """Write the fedimg.toml of a folder, and return its path; without a URL its database is a
    file below `state`.
    """
    path = folder / "fedimg.toml"
    path.write_text(f'database = "{database}"\n{_SETTINGS}')
    return path


@contextmanager
def silent_site(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the environment of the fedimg of a folder whose settings file is written."""
    (folder / "logs").mkdir()
    bus = Bus(folder)
    try:
        bus.start_relay()
        with silent() as endpoint:
            yield {
                **aws_environment(folder / "aws", endpoint, ORIGIN, AccessKey.new()),
                **bus.environment,
                "FEDIMG_CONFIG": str(folder / "fedimg.toml"),
            }
    finally:
        bus.close()
