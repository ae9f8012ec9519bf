from __future__ import annotations

import json
from pathlib import Path

from fedimg.images import AMI, AMIType
from fedimg.store.store import Store
from tests.cli.conftest import X86, Run


def publish(store: Store) -> None:
    ami = AMI("ami-1", "name", "us-east-1", AMIType.parse("hvm-gp3"), "snap-1")
    store.record_ami(X86, ami)
    store.publish_ami(ami)


def test_catalogue_is_written_where_the_option_says(
    store: Store, x86_job: str, run: Run, tmp_path: Path
) -> None:
    publish(store)
    result = run("catalogue", "--out", str(tmp_path / "out"))
    assert result.exit_code == 0
    assert f" in {tmp_path / 'out'}, which tells of 1 image and 1 AMI\n" in result.stdout
    again = run("--json", "catalogue", "--out", str(tmp_path / "out"))
    assert json.loads(again.stdout) == {
        "directory": str(tmp_path / "out"),
        "files": 0,
        "images": 1,
        "amis": 1,
    }


def test_configured_directory_is_relative_to_the_configuration(
    store: Store, x86_job: str, run: Run, config: Path
) -> None:
    publish(store)
    config.write_text('state_directory = "state"\n[catalogue]\ndirectory = "out"\n')
    assert run("catalogue").exit_code == 0
    assert (config.parent / "out/latest.json").exists()


def test_without_a_directory_nothing_is_written(store: Store, run: Run) -> None:
    result = run("catalogue")
    assert result.exit_code == 2
    assert "give --out DIRECTORY, or set catalogue.directory" in result.stderr


def test_directory_that_cannot_be_written_is_one_line(
    store: Store, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    result = run("catalogue", "--out", str(tmp_path / "file"))
    assert result.exit_code == 2
    assert "cannot write the catalogue's file" in result.stderr
    assert "Traceback" not in result.stderr
