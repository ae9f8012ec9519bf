from __future__ import annotations

import json
from pathlib import Path

from fedimg.catalogue import signing_key
from tests.cli.conftest import Run


def test_key_is_made_once_and_replaced_by_rotation(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    made = json.loads(run("--json", "keygen", str(file)).stdout)
    assert made["keyid"] == signing_key.read(file).public_key.keyid
    again = run("keygen", str(file))
    assert again.exit_code == 2
    assert "exists and stays as it is" in again.stderr
    rotated = json.loads(run("--json", "keygen", str(file), "--rotate").stdout)
    assert rotated["replaced"] == made["keyid"]
    assert rotated["keyid"] == signing_key.read(file).public_key.keyid != made["keyid"]
    assert file.stat().st_mode & 0o777 == 0o600


def test_file_is_the_configured_one(run: Run, config: Path) -> None:
    config.write_text('[catalogue]\nsigning_key = "key.pem"\n')
    assert run("keygen").exit_code == 0
    assert (config.parent / "key.pem").exists()


def test_without_a_file_nothing_is_made(run: Run) -> None:
    result = run("keygen")
    assert result.exit_code == 2
    assert "give FILE, or set catalogue.signing_key" in result.stderr


def test_rotation_of_no_key_says_how_to_make_one(run: Run, tmp_path: Path) -> None:
    result = run("keygen", str(tmp_path / "none"), "--rotate")
    assert result.exit_code == 2
    assert "'fedimg keygen' makes one" in result.stderr
