"""Statements are signed and can be checked by others: fedimg.catalogue.statements, signing_key.

Follows fedimg/catalogue/signing_key.py, fedimg/store/catalogue_keys.py.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from fedimg.catalogue import signing_key, statements
from fedimg.catalogue.task import CatalogueTask
from fedimg.catalogue.writer import CatalogueWriter
from fedimg.store import tables
from fedimg.store.store import Store
from tests.catalogue.conftest import DISK, FURTHER, ORIGIN, Site

PAGE = Path(__file__).parents[2] / "docs/provenance.md"
FILE = "builds/Fedora-Cloud-Base-43-1.7.intoto.jsonl"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "catalogue"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key.pem"
    signing_key.generate(path)
    return path


def write(store: Store, root: Path, key: Path | None) -> None:
    signer = signing_key.read(key) if key else None
    CatalogueWriter(store, root, site="prod", base_url="").write(signer)


def payload(root: Path, name: str = FILE) -> dict[str, Any]:
    (line,) = (root / name).read_text().splitlines()
    return dict(json.loads(base64.b64decode(json.loads(line)["payload"])))


def keyid(root: Path, name: str = FILE) -> str:
    (signature,) = json.loads((root / name).read_text())["signatures"]
    return str(signature["keyid"])


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return docs/provenance.md's program as a file."""
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    path = tmp_path_factory.mktemp("provenance") / "check.py"
    path.write_text(program)
    return path


def checked(program: Path, keys: Path, file: Path, ami: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(program), str(keys), str(file), ami],
        check=False,
        capture_output=True,
        text=True,
    )


@pytest.mark.process
def test_documented_program_verifies_a_statement_and_finds_what_was_changed(
    site: Site, store: Store, root: Path, key: Path, documented: Path, tmp_path: Path
) -> None:
    amis = site.publish(site.build(7))
    write(store, root, key)
    keys, file = root / "keys.json", root / FILE
    told = checked(documented, keys, file, amis[0].id)
    assert told.stderr == ""
    assert told.stdout == (
        f"arn:aws:ec2:{ORIGIN}::image/{amis[0].id} holds the disk sha256:{DISK.sha256}\n"
    )
    assert "says nothing of ami-0" in checked(documented, keys, file, "ami-0").stderr

    envelope = json.loads(file.read_text())
    changed = base64.b64decode(envelope["payload"]).replace(
        b'"digest":{"sha256":"d', b'"digest":{"sha256":"e'
    )
    envelope["payload"] = base64.b64encode(changed).decode()
    forged = tmp_path / "forged.intoto.jsonl"
    forged.write_text(json.dumps(envelope))
    refused = checked(documented, keys, forged, amis[0].id)
    assert refused.returncode
    assert "VerificationError" in refused.stderr


def test_statement_names_every_ami_with_the_disk_it_holds(
    site: Site, store: Store, root: Path, key: Path
) -> None:
    image = site.build(7)
    amis = site.publish(image)
    write(store, root, key)
    told = payload(root)
    assert told["_type"] == "https://in-toto.io/Statement/v1"
    assert {each["uri"]: each["name"] for each in told["subject"]} == {
        f"arn:aws:ec2:{ami.region}::image/{ami.id}": ami.name for ami in amis
    }
    assert {each["digest"]["sha256"] for each in told["subject"]} == {DISK.sha256}
    (shown,) = told["predicate"]["images"]
    assert (shown["url"], shown["checksum"]) == (image.url, image.checksum)
    assert shown["boot_checks"][0]["checks"][0]["name"] == "boots"
    assert "amis" not in shown


def test_image_whose_disk_is_unknown_is_in_no_statement(
    site: Site, store: Store, root: Path, key: Path
) -> None:
    site.publish(site.build(7))
    store.write(sa.update(tables.jobs).values(disk_sha256=None))
    write(store, root, key)
    assert list(root.rglob("*.intoto.jsonl")) == []


def test_rotated_key_stays_published_and_signs_no_more(
    site: Site, store: Store, root: Path, key: Path
) -> None:
    image = site.build(7)
    site.publish(image, [ORIGIN])
    write(store, root, key)
    first = (root / FILE).read_bytes()
    old, new = signing_key.rotate(key)
    site.follow(image, FURTHER)
    write(store, root, key)
    assert (root / FILE).read_bytes() == first
    assert (keyid(root), keyid(root, FILE.replace(".into", "-2.into"))) == (old, new)
    published = json.loads((root / "keys.json").read_text())["keys"]
    assert [each["keyid"] for each in published] == [new, old]


def test_publication_that_was_written_without_a_key_is_signed_later(
    site: Site, store: Store, root: Path, key: Path
) -> None:
    site.publish(site.build(7))
    write(store, root, None)
    assert not (root / FILE).exists()
    write(store, root, key)
    assert payload(root)["subject"]


def test_keygen_overwrites_nothing_and_the_file_is_its_owners_alone(key: Path) -> None:
    before = key.read_bytes()
    assert key.stat().st_mode & 0o777 == 0o600
    with pytest.raises(signing_key.CatalogueError, match="exists and stays as it is"):
        signing_key.generate(key)
    assert key.read_bytes() == before


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_key_that_others_can_read_is_refused(key: Path, mode: int) -> None:
    key.chmod(mode)
    with pytest.raises(signing_key.CatalogueError, match=r"others may know it.*chmod 600"):
        signing_key.read(key)


@pytest.mark.parametrize("content", [b"", b"no key", b"x" * 10000])
def test_file_without_a_key_is_refused_in_words(key: Path, content: bytes) -> None:
    key.write_bytes(content)
    with pytest.raises(signing_key.CatalogueError, match=r"no private key.*fedimg keygen"):
        signing_key.read(key)


def test_link_and_pipe_are_no_key(key: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(key)
    with pytest.raises(signing_key.CatalogueError, match="cannot read"):
        signing_key.read(tmp_path / "link")
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(signing_key.CatalogueError, match="is not a file"):
        signing_key.read(tmp_path / "pipe")


def test_worker_tells_once_that_its_key_is_refused_and_signs_when_it_is_not(
    site: Site, store: Store, root: Path, key: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    site.publish(site.build(7))
    key.chmod(0o644)
    task = CatalogueTask(CatalogueWriter(store, root, site="prod", base_url=""), key)
    task.write_if_changed()
    task.write_if_changed()
    assert caplog.text.count("others may know it") == 1
    assert (root / "latest.json").exists()
    assert not (root / FILE).exists()
    key.chmod(0o600)
    task.write_if_changed()
    assert payload(root)["subject"]
    assert "is written again, in full" in caplog.text


def test_refused_key_makes_the_worker_write_the_catalogue_once(
    site: Site, store: Store, root: Path, key: Path
) -> None:
    site.publish(site.build(7))
    key.chmod(0o644)
    task = CatalogueTask(CatalogueWriter(store, root, site="prod", base_url=""), key)
    task.write_if_changed()
    (root / "latest.json").unlink()
    task.write_if_changed()
    assert not (root / "latest.json").exists()


def test_private_key_is_in_no_file_of_the_catalogue(
    site: Site, store: Store, root: Path, key: Path
) -> None:
    site.publish(site.build(7))
    write(store, root, key)
    secret = key.read_text().splitlines()[1]
    for path in root.rglob("*"):
        if path.is_file():
            assert secret not in path.read_text(), path


def test_predicate_type_is_the_documented_one() -> None:
    assert f"`{statements.PREDICATE_TYPE}`" in PAGE.read_text()
