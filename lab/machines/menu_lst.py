"""Reads menu.lst, the configuration of GRUB 0.97: what it boots when nobody chooses."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """Paths are those in the root file system, without GRUB's name for a device."""

    kernel: str
    arguments: str
    initrd: str | None


def default_entry(menu: str) -> Entry | None:
    """Return the entry that is booted by default, or None when that one names no kernel."""
    default = 0
    entries: list[dict[str, list[str]]] = []
    for line in menu.splitlines():
        # GRUB 0.97 takes "default=0" and "default 0" for the same.
        words = re.split(r"[\s=]+", line.strip(), maxsplit=1)
        if len(words) < 2 or words[0].startswith("#"):
            continue
        word, rest = words[0].lower(), words[1]
        if word == "default" and rest.isdigit():
            default = int(rest)
        elif word == "title":
            entries.append({})
        elif word in ("kernel", "initrd") and entries:
            named = [w for w in rest.split() if not w.startswith("--")]
            if named:
                entries[-1][word] = [re.sub(r"^\([^)]*\)", "", named[0]), *named[1:]]
    entry = entries[default] if default < len(entries) else {}
    if "kernel" not in entry:
        return None
    initrd = entry["initrd"][0] if "initrd" in entry else None
    return Entry(entry["kernel"][0], " ".join(entry["kernel"][1:]), initrd)
