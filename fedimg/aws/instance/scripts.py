"""Build the commands that run constant scripts on instances, with values on standard input."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from importlib.resources import files

_BECOME_ROOT = '$(test "$(id -u)" = 0 || echo sudo -n)'


def text(name: str) -> str:
    """Return the text of a script of this package, by its path in the package."""
    return files("fedimg.aws").joinpath(name).read_text()


def as_root(shell: str, *names: str) -> str:
    """Return the command that runs some scripts as one, as root: the same for every instance."""
    return f"exec {_BECOME_ROOT} {shell} -c {shlex.quote(''.join(map(text, names)))}"


def values(lines: Iterable[tuple[str, object]]) -> bytes:
    """Return a script's standard input: a line `NAME VALUE` for each value, then `end`.

    No value may contain a line break; the caller has checked that.
    """
    return "".join([*(f"{name} {value}\n" for name, value in lines), "end\n"]).encode()
