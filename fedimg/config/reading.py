"""Read fedimg.toml; errors name the key, and the nearest known one."""

from __future__ import annotations

import difflib
import errno
import os
import tomllib
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from fedimg.config.ami_options import read_uefi_data
from fedimg.config.ec2 import EC2
from fedimg.config.errors import ConfigError, ConfigUnusableNow
from fedimg.config.settings import Settings

DEFAULT_PATH = Path("/etc/fedimg/fedimg.toml")
PATH_VARIABLE = "FEDIMG_CONFIG"
#: Errors of opening a file that stay until a person corrects something.
_NEEDS_A_PERSON = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EACCES,
    errno.EPERM,
    errno.ELOOP,
    errno.ENAMETOOLONG,
}


def load(path: Path | None = None) -> Settings:
    """Return the settings from `path`, or from $FEDIMG_CONFIG, or from /etc/fedimg/fedimg.toml.

    Relative directories in the file are relative to the file. Raises ConfigError when the file is
    missing or invalid; the text names the key and, for a misspelt key, the nearest known one.
    """
    path = path or Path(os.environ.get(PATH_VARIABLE) or DEFAULT_PATH)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        # Others, such as of a file server that is away, pass by themselves.
        kind = ConfigError if error.errno in _NEEDS_A_PERSON else ConfigUnusableNow
        raise kind(
            f"cannot read the configuration file {path}: {error.strerror}; "
            f"name another file with --config or ${PATH_VARIABLE}"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise ConfigError(
            "\n".join(f"{path}: {_error_text(problem)}" for problem in error.errors())
        ) from error
    beside = path.parent.absolute()
    catalogue = settings.catalogue
    given = {"directory": catalogue.directory, "signing_key": catalogue.signing_key}
    paths = {key: beside / path for key, path in given.items() if path}
    return settings.model_copy(
        update={
            "state_directory": beside / settings.state_directory,
            "catalogue": catalogue.model_copy(update=paths),
            "ec2": _with_uefi_data(settings.ec2, path, beside).model_copy(
                update={"instance_store": settings.ec2.instance_store.beside(beside)}
            ),
        }
    )


def _with_uefi_data(ec2: EC2, path: Path, beside: Path) -> EC2:
    """Return the settings with the whole path of the UEFI data; they are checked."""
    given = ec2.amis.uefi_data
    if not given:
        return ec2
    try:
        read_uefi_data(beside / given)
    except ValueError as error:
        raise ConfigError(f"{path}: ec2.amis.uefi_data: {error}") from error
    amis = ec2.amis.model_copy(update={"uefi_data": beside / given})
    return ec2.model_copy(update={"amis": amis})


def _error_text(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        return f"{where or 'the file'}: {problem['msg'].removeprefix('Value error, ')}"
    *sections, key = problem["loc"]
    known = _keys(sections)
    similar = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
    hint = f"did you mean {similar[0]}?" if similar else f"known keys: {', '.join(sorted(known))}"
    return f"unknown key {where}; {hint}"


def _keys(sections: list[str | int]) -> list[str]:
    model: type[BaseModel] = Settings
    for name in sections:
        if isinstance(name, int):
            continue
        field = next(f for n, f in model.model_fields.items() if (f.alias or n) == name)
        candidates = (field.annotation, *get_args(field.annotation))
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return [field.alias or name for name, field in model.model_fields.items()]
