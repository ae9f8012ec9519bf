"""Test reading a file that its owner alone may read."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedimg.process import private_file
from fedimg.process.private_file import NotPrivate


def test_own_closed_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(b"0123456789")
    file.chmod(0o400)
    assert private_file.read(file, "the key", most=4) == b"0123"


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o700])
def test_file_with_a_wider_mode_is_not_read(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "key"
    file.touch()
    file.chmod(mode)
    with pytest.raises(NotPrivate, match=f"the key {file} is not read.*chmod 600"):
        private_file.read(file, "the key", most=4)


def test_folder_link_and_absent_file_are_not_read(tmp_path: Path) -> None:
    with pytest.raises(NotPrivate, match="is not a file"):
        private_file.read(tmp_path, "the key", most=4)
    (tmp_path / "key").touch(0o600)
    (tmp_path / "link").symlink_to(tmp_path / "key")
    with pytest.raises(NotPrivate, match="cannot read the key"):
        private_file.read(tmp_path / "link", "the key", most=4)
    with pytest.raises(NotPrivate, match="No such file"):
        private_file.read(tmp_path / "absent", "the key", most=4)
