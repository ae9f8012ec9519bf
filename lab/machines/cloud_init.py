"""Reads from user data what cloud-init would do on an instance; doing it is machine's matter."""

import base64
import binascii
import gzip
import re
import shlex
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from lab.machines.user_data import BOOTHOOK, CLOUD_CONFIG, SCRIPT, take_apart

_USER_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_HOST_KEY = re.compile(r"(rsa|ecdsa|ed25519)_private")
_PASSWORDLESS = "ALL=(ALL) NOPASSWD:ALL"

# cloud-init's own answer to a root login, from its disable_root_opts.
_NOT_ROOT = (
    "no-port-forwarding,no-agent-forwarding,no-X11-forwarding,"
    'command="echo \'Please login as the user \\"{user}\\" rather than the user \\"root\\".\';'
    'echo;sleep 10;exit 142"'
)


@dataclass(frozen=True)
class User:
    """Somebody who may log in. `sudo` holds sudoers rules; none of them means no sudo."""

    name: str
    authorized_keys: tuple[str, ...]
    sudo: tuple[str, ...]


@dataclass(frozen=True)
class File:
    """A file that write_files asks for, root's."""

    path: str
    content: bytes
    mode: int
    append: bool


@dataclass(frozen=True)
class CloudInit:
    """The work of the first boot: `early` before sshd answers (`bootcmd` and boothooks, again at
    every boot), `late` after it. Both hold shell scripts. `warnings` go to the console.
    """

    hostname: str | None
    users: tuple[User, ...]  # root is the first
    host_keys: tuple[str, ...] | None  # None: sshd makes its own
    files: tuple[File, ...]
    early: tuple[bytes, ...]
    late: tuple[bytes, ...]
    warnings: tuple[str, ...]


def read(user_data: bytes, *, public_key: str | None, default_user: str) -> CloudInit:
    """Read the wishes of `user_data` and of the launch's key pair. Nothing in them makes this
    raise.
    """
    warnings: list[str] = []
    config: dict[str, Any] = {}
    early: list[bytes] = []
    scripts: list[bytes] = []
    for part in take_apart(user_data):
        if part.kind == CLOUD_CONFIG:
            config |= _mapping(part.content, warnings)
        elif part.kind == SCRIPT:
            scripts.append(part.content)
        elif part.kind == BOOTHOOK:
            early.append(part.content)
        else:
            start = part.content.lstrip()[:20]
            warnings.append(
                f"Unhandled non-multipart (text/x-not-multipart) userdata: '{start!r}...'"
            )
    bootcmd = _commands("bootcmd", config, warnings)
    runcmd = _commands("runcmd", config, warnings)
    hostname = config.get("hostname")
    return CloudInit(
        hostname=hostname if isinstance(hostname, str) else None,
        users=_users(config, public_key, default_user, warnings),
        host_keys=_host_keys(config, warnings),
        files=_files(config, warnings),
        early=(*early, *bootcmd),
        late=(*runcmd, *scripts),
        warnings=tuple(warnings),
    )


def _mapping(content: bytes, warnings: list[str]) -> dict[str, Any]:
    try:
        read = yaml.safe_load(content.decode())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = " ".join(str(error).split())
        warnings.append(f"Failed loading yaml blob. Invalid format: {where}")
        return {}
    if read is None:
        return {}
    if not isinstance(read, dict):
        warnings.append(
            "Failed loading yaml blob. Yaml load allows (<class 'dict'>,) root types, "
            f"but got {type(read).__name__} instead"
        )
        return {}
    return {str(key): value for key, value in read.items()}


def _users(
    config: Mapping[str, Any], public_key: str | None, default_user: str, warnings: list[str]
) -> tuple[User, ...]:
    """cloud-init's users-groups and ssh modules, as far as names, keys and sudo go."""
    own = config.get("user")
    if isinstance(own, dict):
        own = own.get("name")
    default = own if isinstance(own, str) and _USER_NAME.fullmatch(own) else default_user
    common = _strings(config.get("ssh_authorized_keys"))
    if public_key is not None and public_key.strip() not in common:
        common = (*common, public_key.strip())

    users: list[User] = []
    default_exists = False
    for entry in _list(config.get("users", ["default"])):
        if entry == "default":
            default_exists = True
            users.append(User(default, common, (_PASSWORDLESS,)))
            continue
        described = {"name": entry} if isinstance(entry, str) else entry
        name = described.get("name") if isinstance(described, dict) else None
        if not isinstance(name, str) or not _USER_NAME.fullmatch(name) or name == "root":
            warnings.append(f"Failed to create user {name!r}")
            continue
        keys = _strings(described.get("ssh_authorized_keys"))
        users.append(User(name, keys, _strings(described.get("sudo") or None)))

    if config.get("disable_root", True):
        # Without a default user cloud-init's message holds the word NONE.
        option = _NOT_ROOT.format(user=default if default_exists else "NONE")
        root_keys = tuple(f"{option} {key}" for key in common)
    else:
        root_keys = common
    return (User("root", root_keys, (_PASSWORDLESS,)), *users)


def _host_keys(config: Mapping[str, Any], warnings: list[str]) -> tuple[str, ...] | None:
    given = config.get("ssh_keys")
    if not given:
        return None
    if not isinstance(given, dict):
        warnings.append("Invalid cloud-config: ssh_keys is not a mapping; no host key is installed")
        return None
    private = [
        value
        for name, value in given.items()
        if isinstance(value, str) and _HOST_KEY.fullmatch(str(name))
    ]
    return tuple(private)


def _files(config: Mapping[str, Any], warnings: list[str]) -> tuple[File, ...]:
    files = []
    for entry in _list(config.get("write_files")):
        if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
            warnings.append(f"Invalid cloud-config: write_files has no path in {entry!r}")
            continue
        path = entry["path"]
        content = entry.get("content") or ""
        encoding = str(entry.get("encoding") or "text/plain").lower()
        raw = content if isinstance(content, bytes) else str(content).encode()
        try:
            if encoding in ("b64", "base64", "gz+b64", "gz+base64", "gzip+b64", "gzip+base64"):
                raw = base64.b64decode(raw)
            if encoding.startswith("gz"):
                raw = gzip.decompress(raw)
        except (binascii.Error, OSError, EOFError, zlib.error) as error:
            warnings.append(f"Failed to write {path}: {encoding}: {error}")
            continue
        mode = entry.get("permissions", 0o644)
        # YAML 1.1 reads an unquoted 0644 as a number in octal, and leaves '0644' a text.
        if not isinstance(mode, int):
            try:
                mode = int(str(mode), 8)
            except ValueError:
                warnings.append(f"Undecodable permissions {mode!r} for {path}, using 0644")
                mode = 0o644
        append = bool(entry.get("append"))
        files.append(File(path, raw, mode & 0o7777, append))
    return tuple(files)


def _commands(name: str, config: Mapping[str, Any], warnings: list[str]) -> tuple[bytes, ...]:
    """cloud-init's shellify: a string is shell, a list is words; one failure stops no other."""
    lines = []
    for command in _list(config.get(name)):
        if isinstance(command, str):
            lines.append(command)
        elif isinstance(command, list) and command:
            lines.append(shlex.join(str(word) for word in command))
        elif command is not None:
            warnings.append(f"Invalid cloud-config: {name} holds {command!r}")
    return ("\n".join(["#!/bin/sh", *lines, ""]).encode(),) if lines else ()


def _strings(value: object) -> tuple[str, ...]:
    return tuple(item.strip() for item in _list(value) if isinstance(item, str) and item.strip())


def _list(value: object) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
