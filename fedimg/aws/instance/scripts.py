"""The constant scripts that instances run as root; their values come on standard input."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from importlib.resources import files

_BECOME_ROOT = '$(test "$(id -u)" = 0 || echo sudo -n)'


def text(name: str) -> str:
    """A script that this package brings, by its path in it."""
    return files("fedimg.aws").joinpath(name).read_text()


def as_root(name: str, shell: str) -> str:
    """The command that runs a script as root. It is the same on every instance."""
    return f"exec {_BECOME_ROOT} {shell} -c {shlex.quote(text(name))}"


def values(lines: Iterable[tuple[str, object]]) -> bytes:
    """A script's standard input: a NAME and a VALUE a line, then `end`.

    No value may hold a line's end: who gives one has checked it.
    """
    return "".join([*(f"{name} {value}\n" for name, value in lines), "end\n"]).encode()
