"""The checkout that an operator installs from, and the commands that the documentation tells."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def check_out(folder: Path) -> None:
    """Copy what a commit of this tree would hold into `folder`, which is made."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        source, copy = ROOT / name, folder / name
        if source.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(source.read_bytes())
            copy.chmod(source.stat().st_mode & 0o755)


def commands(page: str, begin: str) -> list[str]:
    """Return the commands of the first block that follows `begin` on a page.

    A command that goes on in a further line, by a backslash, is one.
    """
    text = (ROOT / page).read_text()
    block = re.search(r"(?:^ {4,7}\S.*\n| {8,}\S.*\n)+", text[text.index(begin) :], re.MULTILINE)
    assert block
    lines = block[0].replace("\\\n", " ").splitlines()
    return [re.sub(r" {2,}", " ", line.strip()) for line in lines]


def index() -> dict[str, str]:
    """Return the variables by which pip finds its index here, and nothing else of this user's."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith("PIP_") or name.lower().endswith("_proxy") or name == "SSL_CERT_FILE"
    }
