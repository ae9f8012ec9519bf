from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedimg.images import Architecture
from fedimg.store.store import Store
from tests.cli.conftest import ARM_URL, FOLDER, X86_URL, Run

SHA256 = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("url", "arch", "expected"),
    [
        (X86_URL, [], Architecture.X86_64),
        (ARM_URL, [], Architecture.ARM64),
        (ARM_URL, ["--arch", "aarch64"], Architecture.ARM64),
        (f"{FOLDER}/disk.raw.xz", [], Architecture.X86_64),
        (f"{FOLDER}/disk.raw.xz", ["--arch", "aarch64"], Architecture.ARM64),
        (f"{FOLDER}/arm64/Fedora-x86_64-1.raw.xz", [], Architecture.X86_64),
    ],
)
def test_file_name_tells_the_architecture(
    run: Run, store: Store, url: str, arch: list[str], expected: Architecture
) -> None:
    result = run("upload", url, *arch)
    row = store.job(result.stdout.strip())
    assert result.exit_code == 0
    assert row is not None
    assert (row.image.url, row.image.architecture) == (url, expected)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([X86_URL, "--arch", "aarch64"], "contradicts"),
        ([X86_URL, "--arch", "s390x"], "s390x"),
        ([X86_URL, "--checksum", "sha256:abc"], "sha256:abc"),
        ([X86_URL, "--checksum", "crc:00"], "crc:00"),
        ([f"{FOLDER}/Fedora.qcow2"], ".raw.xz, .raw.zst"),
        (["ftp://x/y.raw.xz"], "http"),
    ],
)
def test_contradictory_image_is_refused(
    config: Path, run: Run, arguments: list[str], said: str
) -> None:
    result = run("upload", *arguments, "--json")
    assert result.exit_code == 2
    assert said in json.loads(result.stdout)["error"]
    assert not (config.parent / "state").exists()


@pytest.mark.parametrize("checksum", [SHA256, SHA256.upper(), f"sha256:{SHA256}"])
def test_checksum_may_be_a_bare_sha256(run: Run, store: Store, checksum: str) -> None:
    row = store.job(
        json.loads(run("upload", X86_URL, "--checksum", checksum, "--json").stdout)["job"]
    )
    assert row is not None
    assert row.image.checksum == f"sha256:{SHA256}"
