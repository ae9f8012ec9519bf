"""The catalogue is written from the record.

Follows fedimg/catalogue/files.py, fedimg/catalogue/task.py.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
import sqlalchemy as sa
from securesystemslib.signer import CryptoSigner

from fedimg.catalogue import documents
from fedimg.catalogue.errors import CatalogueError
from fedimg.catalogue.task import INTERVAL, CatalogueTask
from fedimg.catalogue.writer import CatalogueWriter, Written
from fedimg.images import AMI, AMIType, Virtualization
from fedimg.jobs.recorder import Recorder
from fedimg.progress import CheckResult, CheckState
from fedimg.store import rows, tables
from fedimg.store.store import Store
from fedimg.values.audience import Audience
from tests.catalogue.conftest import DISK, FURTHER, ORIGIN, OWNER, Site

pytestmark = pytest.mark.parametrize("store", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "catalogue"


@pytest.fixture
def write(store: Store, root: Path) -> Callable[[], Written]:
    return lambda: CatalogueWriter(
        store, root, site="prod", base_url="https://amis.example.org"
    ).write()


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def files(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_publication_has_the_facts_of_images_and_amis(
    site: Site, write: Callable[[], Written], root: Path
) -> None:
    image = site.build(7)
    amis = site.publish(image)
    assert write().amis == len(amis)
    published = read(root / "builds/Fedora-Cloud-Base-43-1.7.json")
    assert published["source"] == "build-7"
    (shown,) = published["images"]
    assert shown["image"] == "Fedora-Cloud-Base-43-1.7.x86_64"
    assert shown["release"] == "43"
    assert (shown["url"], shown["checksum"], shown["size"]) == (
        image.url,
        image.checksum,
        image.size,
    )
    assert (shown["disk_sha256"], shown["disk_length"]) == (DISK.sha256, DISK.length)
    (boot,) = shown["boot_checks"]
    assert (boot["region"], boot["ami"]) == (ORIGIN, amis[0].id)
    # What an instance printed is in no file.
    assert boot["checks"] == [{"name": "boots", "state": "passed", "seconds": 12.3}]
    assert [each["ami"] for each in shown["amis"]] == [
        ami.id for ami in sorted(amis, key=lambda ami: (ami.region, ami.name))
    ]
    hvm = next(each for each in shown["amis"] if each["ami"] == amis[0].id)
    assert hvm == {
        "region": ORIGIN,
        "ami": amis[0].id,
        "name": amis[0].name,
        "snapshot": amis[0].snapshot,
        "virtualization": "hvm",
        "volume_type": "gp3",
        "partition": "aws",
        "owner": OWNER,
        "boot_mode": "uefi-preferred",
        "tpm": None,
        "imds": "v2.0",
        "ena": True,
        "published": hvm["published"],
    }
    assert hvm["published"].endswith("Z")


def test_every_document_fits_its_schema(
    site: Site, store: Store, root: Path, withdraw: Callable[..., None]
) -> None:
    site.publish(site.build(1))
    site.publish(site.scratch(2))
    withdrawn = site.compose("20261101.0", release="Rawhide", arch="arm64")
    site.publish(withdrawn)
    withdraw(withdrawn.job, reason="it does not boot", replacement=None)
    signer = CryptoSigner.generate_ed25519()
    CatalogueWriter(store, root, site="prod", base_url="").write(signer)
    checked = []
    for name, content in files(root).items():
        if name.startswith("schemas/") or not name.endswith(".json"):
            continue
        schema = name.removesuffix(".json") if "/" not in name else ""
        schema = schema or ("release" if name.startswith("releases/") else "publication")
        described = read(root / f"schemas/{schema}.json")
        jsonschema.Draft202012Validator.check_schema(described)
        jsonschema.validate(json.loads(content), described)
        checked.append(schema)
    assert set(checked) == set(documents.SCHEMAS)


def test_region_that_follows_later_is_in_a_second_file_and_the_first_stays(
    site: Site, write: Callable[[], Written], root: Path
) -> None:
    image = site.build(7)
    site.publish(image, [ORIGIN])
    write()
    first = root / "builds/Fedora-Cloud-Base-43-1.7.json"
    content, made = first.read_bytes(), first.stat().st_mtime_ns
    ami = site.follow(image, FURTHER)
    write()
    assert first.read_bytes() == content
    assert first.stat().st_mtime_ns == made
    second = read(root / "builds/Fedora-Cloud-Base-43-1.7-2.json")
    assert [each["ami"] for each in second["images"][0]["amis"]] == [ami.id]
    (shown,) = read(root / "releases/43.json")["images"]
    assert shown["files"] == [
        "builds/Fedora-Cloud-Base-43-1.7-2.json",
        "builds/Fedora-Cloud-Base-43-1.7.json",
    ]


def test_images_of_a_compose_are_in_one_file_once_all_have_ended(
    site: Site, write: Callable[[], Written], root: Path
) -> None:
    one = site.compose("20261101.0")
    other = site.compose("20261101.0", arch="arm64")
    site.publish(one)
    site.publish(other, ends=False)
    write()
    file = root / "composes/Fedora-Cloud-43-20261101.0.json"
    assert not file.exists()
    # What is public is in the lists meanwhile.
    assert len(read(root / "latest.json")["latest"]) == 4
    site.end(other)
    write()
    assert {each["architecture"] for each in read(file)["images"]} == {"x86_64", "arm64"}


def test_second_file_takes_no_name_of_another_build(
    site: Site, write: Callable[[], Written], root: Path
) -> None:
    image = site.build(7)
    site.publish(image, [ORIGIN])
    other = site.build(8)
    site.publish(
        type(other)(other.url, other.architecture, f"{image.build}-2", "build-8", other.size)
    )
    write()
    site.follow(image, FURTHER)
    write()
    sources = {
        name: json.loads(content)["source"]
        for name, content in files(root).items()
        if name.startswith("builds/")
    }
    assert sources == {
        f"builds/{image.build}.json": "build-7",
        f"builds/{image.build}-2.json": "build-8",
        f"builds/{image.build}-3.json": "build-7",
    }


def test_another_directory_gets_the_same_files(
    site: Site, store: Store, write: Callable[[], Written], root: Path, tmp_path: Path
) -> None:
    image = site.build(7)
    site.publish(image, [ORIGIN])
    write()
    site.follow(image, FURTHER)
    write()
    elsewhere = tmp_path / "elsewhere"
    CatalogueWriter(store, elsewhere, site="prod", base_url="https://amis.example.org").write()
    assert files(elsewhere) == files(root)


def test_files_are_written_only_when_they_change(
    site: Site, write: Callable[[], Written], root: Path
) -> None:
    site.publish(site.build(1))
    assert write().files > 0
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.json")}
    assert write().files == 0
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.json")} == before


def test_withdrawn_image_is_told_with_its_reason_and_without_a_person(
    site: Site,
    write: Callable[[], Written],
    root: Path,
    withdraw: Callable[..., None],
) -> None:
    image = site.build(1)
    site.publish(image)
    write()
    withdraw(image.job, reason="it does not boot", replacement="Fedora-Cloud-Base-43-1.2.x86_64")
    write()
    (shown,) = read(root / "releases/43.json")["images"]
    assert {each["state"] for each in shown["amis"]} == {"withdrawn"}
    assert {each["reason"] for each in shown["amis"]} == {"it does not boot"}
    (listed,) = read(root / "images.json")["releases"][0]["images"]
    assert listed["states"] == {"withdrawn": 4}
    assert listed["replacement"] == "Fedora-Cloud-Base-43-1.2.x86_64"
    assert read(root / "latest.json") == {"latest": []}
    # The publication is a fact that stays.
    assert (root / "builds/Fedora-Cloud-Base-43-1.1.json").exists()
    assert not any(b"ann@host" in content for content in files(root).values())


def test_image_that_was_never_public_is_nowhere(
    site: Site, store: Store, write: Callable[[], Written], root: Path
) -> None:
    image = site.build(1)
    site.publish(image, [])
    write()
    assert b"ami-" not in b"".join(files(root).values())


def test_private_amis_of_a_published_image_are_left_out(
    site: Site, store: Store, write: Callable[[], Written], root: Path
) -> None:
    image = site.build(1)
    public, *_ = site.publish(image, [ORIGIN])
    store.write(
        sa.update(tables.amis)
        .where(tables.amis.c.ami != public.id)
        .values(public=False, state="private", published_at=None)
    )
    write()
    (shown,) = read(root / "releases/43.json")["images"]
    assert [each["ami"] for each in shown["amis"]] == [public.id]


def test_publication_of_an_older_version_waits_until_ec2_has_told_its_attributes(
    site: Site, store: Store, write: Callable[[], Written], root: Path
) -> None:
    site.publish(site.build(1))
    attributes = {row.ami: row.attributes for row in store.amis()}
    store.write(sa.update(tables.amis).values(attributes=None))
    write()
    file = root / "builds/Fedora-Cloud-Base-43-1.1.json"
    assert not file.exists()
    for ami, each in attributes.items():
        store.write(
            sa.update(tables.amis)
            .where(tables.amis.c.ami == ami)
            .values(attributes=each, verified_at=1.0)
        )
    write()
    assert {each["owner"] for each in read(file)["images"][0]["amis"]} == {OWNER}


def test_withdrawal_is_in_the_feed_until_it_is_restored(
    site: Site,
    store: Store,
    write: Callable[[], Written],
    root: Path,
    withdraw: Callable[..., None],
) -> None:
    image = site.build(1)
    site.publish(image)
    # Control characters are allowed in no XML.
    withdraw(image.job, reason="it\x0b does\x00 not boot", replacement=None)
    write()

    def titles() -> list[str | None]:
        feed = ElementTree.parse(root / "feed.atom")
        name = "{http://www.w3.org/2005/Atom}entry/{http://www.w3.org/2005/Atom}title"
        return [each.text for each in feed.iterfind(name)]

    assert f"Withdrawn: {image.name}" in titles()
    # Restoring, which may take days where a region is away, is no withdrawal.
    store.write(sa.update(tables.amis).values(state="restoring", changed_at=2e9))
    store.write(sa.update(tables.withdrawals).values(restored_at=2e9, restored_by="ann@host"))
    write()
    assert titles() == [f"Published: {image.name}"]


def test_worker_writes_the_publication_when_the_last_job_of_its_source_has_ended(
    site: Site, store: Store, root: Path
) -> None:
    task = CatalogueTask(CatalogueWriter(store, root, site="prod", base_url=""))
    image = site.build(1)
    site.publish(image, ends=False)
    task.write_if_changed()
    assert not (root / "builds").exists()
    # The end of a job changes no AMI.
    site.end(image)
    task.write_if_changed()
    assert (root / "builds/Fedora-Cloud-Base-43-1.1.json").exists()


def test_what_changes_while_the_worker_writes_is_written_next_time(
    site: Site,
    store: Store,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    withdraw: Callable[..., None],
) -> None:
    image = site.build(1)
    site.publish(image)
    really = CatalogueWriter.write

    def slowly(self: CatalogueWriter, *arguments: Any) -> Written:
        written = really(self, *arguments)
        if not withdrawn:
            withdrawn.append(image.job)
            withdraw(image.job, reason="it does not boot", replacement=None)
        return written

    withdrawn: list[str] = []
    monkeypatch.setattr(CatalogueWriter, "write", slowly)
    task = CatalogueTask(CatalogueWriter(store, root, site="prod", base_url=""))
    task.write_if_changed()
    task.write_if_changed()
    assert read(root / "latest.json") == {"latest": []}


def test_amis_of_an_older_version_are_told_as_far_as_known(
    site: Site, store: Store, write: Callable[[], Written], root: Path
) -> None:
    site.publish(site.build(1))
    store.write(
        sa.update(tables.amis).values(
            attributes=None, state=None, published_at=None, source=None, build=None
        )
    )
    write()
    (shown,) = read(root / "releases/43.json")["images"]
    assert {each["state"] for each in shown["amis"]} == {"public"}
    assert {each["owner"] for each in shown["amis"]} == {None}
    assert {each["published"] for each in shown["amis"]} == {None}


@pytest.mark.parametrize("state", [rows.SHARED, rows.WITHDRAWN, rows.DELETED])
def test_encrypted_amis_of_a_public_image_are_in_no_file(
    site: Site,
    store: Store,
    write: Callable[[], Written],
    root: Path,
    state: str,
) -> None:
    image = site.build(1)
    site.publish(image, ends=False)
    recorder = Recorder(store, image, 1, ORIGIN)
    type = AMIType(Virtualization.HVM, "gp3", encrypted=True)
    # A run that was killed while it shared its AMI has recorded no audience.
    ami = AMI("ami-0eeeeeeeeeeeeeeee", "encrypted", ORIGIN, type, "snap-0eeeeeeeeeeeeeeee")
    recorder.registered(ami)
    recorder.test_completed(ami, [CheckResult("boots", CheckState.PASSED, 1.0)])
    recorder.sharing(ORIGIN, [ami.snapshot, ami.id])
    if state == rows.SHARED:
        recorder.shared(ami, Audience(("111122223333",)))
    site.end(image)
    store.write(sa.update(tables.amis).where(tables.amis.c.ami == ami.id).values(state=state))
    write()
    assert not [
        path
        for path in root.rglob("*.json")
        if ami.id in (text := path.read_text()) or ami.snapshot in text or "encrypted" in text
    ]


def test_files_are_for_everybody_and_leave_nothing_unfinished(
    site: Site, write: Callable[[], Written], root: Path
) -> None:
    site.publish(site.build(1))
    # What a writer that was killed leaves is overwritten.
    root.mkdir()
    (root / ".latest.json.new").write_text("half of")
    before = os.umask(0o077)
    try:
        write()
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in root.rglob("*.json")} == {0o644}
    folders = [path for path in root.rglob("*") if path.is_dir()]
    assert len(folders) > 1
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o755}
    assert list(root.rglob("*.new")) == []


def test_directory_that_cannot_be_written_is_told_with_what_to_do(
    site: Site, store: Store, tmp_path: Path
) -> None:
    site.publish(site.build(1))
    (tmp_path / "file").write_text("")
    with pytest.raises(CatalogueError, match=r"cannot write the catalogue.*file.*Not a directory"):
        CatalogueWriter(store, tmp_path / "file/catalogue", site="prod", base_url="").write()


def test_worker_writes_when_the_record_changed_and_tells_a_failure_once(
    site: Site,
    store: Store,
    root: Path,
    caplog: pytest.LogCaptureFixture,
    withdraw: Callable[..., None],
) -> None:
    caplog.set_level(logging.INFO)
    task = CatalogueTask(CatalogueWriter(store, root, site="prod", base_url=""))
    image = site.build(1)
    site.publish(image)
    root.write_text("in the way")
    assert task.write_if_changed() == INTERVAL
    task.write_if_changed()
    assert caplog.text.count("cannot write the catalogue") == 1
    root.unlink()
    task.write_if_changed()
    assert "is written again" in caplog.text
    latest = root / "latest.json"
    assert len(read(latest)["latest"]) == 2
    latest.unlink()
    task.write_if_changed()
    assert not latest.exists(), "nothing changed, and it was written"
    withdraw(image.job, reason="it does not boot", replacement=None)
    task.write_if_changed()
    assert read(latest) == {"latest": []}
