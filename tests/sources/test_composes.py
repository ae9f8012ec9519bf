"""A compose's images, read from a real file server, and metadata that is not believed."""

import json
import threading
from pathlib import Path

import pytest

from fedimg import config
from fedimg.images import Architecture
from fedimg.intake import announcement, image_selection
from fedimg.sources.composes import ComposeNotFinished, ComposeRefused, Composes, ComposeUnavailable
from lab.koji import Koji
from lab.koji.composes import LOCATION, add_compose, compose_message

NAME = "Fedora-Cloud-43-20261127.0"
FILE = "Fedora-Cloud-Base-AmazonEC2-43-20261127.0.x86_64.raw.xz"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / FILE
    path.write_bytes(b"an image")
    return path


@pytest.fixture
def composes(koji: Koji) -> Composes:
    return Composes(settings(koji))


def settings(koji: Koji, **given: object) -> config.Composes:
    places = [f"{koji.top_url}/compose/nothing-here", f"{koji.top_url}/{LOCATION}"]
    return config.Composes(**{"locations": places, "timeout": 5} | given)


def test_raw_images_come_with_size_checksum_and_the_composes_id(
    koji: Koji, composes: Composes, image: Path
) -> None:
    add_compose(koji.root, NAME, {"x86_64": [image]})
    (found,) = composes.find(f"compose:{NAME}").images
    assert found.url == f"{koji.top_url}/{LOCATION}/{NAME}/compose/Cloud/x86_64/images/{FILE}"
    assert (found.build, found.source, found.size) == (NAME, f"compose-{NAME}", 8)
    assert found.checksum is not None
    assert found.checksum.startswith("sha256:")
    everything = config.Settings(composes=settings(koji))
    ask = image_selection.images_to_publish(
        f"compose:{NAME}", image_selection.Sources(everything), everything, threading.Event()
    )
    assert ask == [found]


@pytest.mark.parametrize("suffix", [".raw.zst", ".raw.gz", ".raw"])
def test_images_of_other_formats_are_found(
    koji: Koji, composes: Composes, image: Path, suffix: str
) -> None:
    other = image.rename(image.with_name(FILE.replace(".raw.xz", suffix)))
    folder = add_compose(koji.root, NAME, {"x86_64": [other]})
    (found,) = composes.find(f"compose:{NAME}").images
    assert (found.file_name, found.name) == (other.name, FILE.removesuffix(".raw.xz"))
    path = folder / "compose/metadata/images.json"
    metadata = json.loads(path.read_text())
    metadata["payload"]["images"]["Cloud"]["x86_64"][0]["format"] = "raw.xz"
    path.write_text(json.dumps(metadata))
    result = composes.find(f"compose:{NAME}")
    assert result.images == ()
    assert [left.reason for left in result.left_out] == ["its name does not end in .raw.xz"]


def test_incomplete_compose_has_the_images_that_it_names(
    koji: Koji, composes: Composes, image: Path
) -> None:
    arm = image.with_name(FILE.replace("x86_64", "aarch64"))
    arm.write_bytes(b"an image for arm")
    files = {"x86_64": [image], "aarch64": [arm]}
    add_compose(koji.root, NAME, files, status="FINISHED_INCOMPLETE")
    found = composes.find(f"compose:{NAME}").images
    assert {(one.file_name, one.architecture) for one in found} == {
        (FILE, Architecture.X86_64),
        (arm.name, Architecture.ARM64),
    }


def test_metadata_larger_than_any_composes_is_not_read(
    koji: Koji, composes: Composes, image: Path
) -> None:
    folder = add_compose(koji.root, NAME, {"x86_64": [image]})
    with (folder / "compose/metadata/images.json").open("ab") as file:
        file.truncate(65 * 1024 * 1024)
    with pytest.raises(ComposeUnavailable, match="more than 16777216 bytes"):
        composes.find(f"compose:{NAME}")


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("STARTED", ComposeNotFinished),
        ("DOOMED", ComposeRefused),
        ("TERMINATED", ComposeRefused),
        ("<html>", ComposeNotFinished),
    ],
)
def test_compose_that_is_not_finished_has_no_images(
    koji: Koji, composes: Composes, image: Path, status: str, expected: type[Exception]
) -> None:
    add_compose(koji.root, NAME, {"x86_64": [image]}, status=status)
    with pytest.raises(expected):
        composes.find(f"compose:{NAME}")


def test_compose_that_is_at_no_location_yet_is_waited_for(composes: Composes) -> None:
    with pytest.raises(ComposeNotFinished, match="404"):
        composes.find(f"compose:{NAME}")


def test_location_that_is_down_is_asked_again(koji: Koji, composes: Composes) -> None:
    koji.down()
    with pytest.raises(ComposeUnavailable, match="503"):
        composes.find(f"compose:{NAME}")


@pytest.mark.parametrize(
    "chosen",
    [
        {"types": ["nightly"]},
        {"release_types": ["eus"]},
        {"variants": ["Server"]},
        {"subvariants": ["Minimal"]},
    ],
)
def test_settings_choose_types_variants_and_subvariants(
    koji: Koji, image: Path, chosen: dict[str, object]
) -> None:
    add_compose(koji.root, NAME, {"x86_64": [image]})
    assert Composes(settings(koji, **chosen)).find(f"compose:{NAME}").images == ()


def test_metadata_of_another_compose_is_refused(
    koji: Koji, composes: Composes, image: Path
) -> None:
    folder = add_compose(koji.root, NAME, {"x86_64": [image]})
    folder.rename(folder.with_name("Fedora-Cloud-43-20261127.1"))
    with pytest.raises(ComposeRefused, match=NAME):
        composes.find("compose:Fedora-Cloud-43-20261127.1")


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000, '{"header": 1}', "\0"])
def test_invalid_metadata_is_refused(
    koji: Koji, composes: Composes, image: Path, text: str
) -> None:
    folder = add_compose(koji.root, NAME, {"x86_64": [image]})
    (folder / "compose/metadata/images.json").write_text(text)
    with pytest.raises(ComposeRefused):
        composes.find(f"compose:{NAME}")


@pytest.mark.parametrize(
    "changes",
    [
        {"path": "../../../../etc/x.raw.xz"},
        {"path": "/etc/x.raw.xz"},
        {"path": "Cloud/x86_64/images/x y.raw.xz"},
        {"path": "Cloud//images/x.raw.xz"},
        {"arch": "s390x"},
        {"size": -1},
        {"size": 10**30},
        {"size": None},
        {"format": "unheard-of"},
        {"path": 7},
        {"checksums": {"md5": "0" * 32}},
        {"checksums": {"sha256": "$(id)"}},
        {"type": "qcow2", "format": "qcow2"},
    ],
)
def test_image_with_impossible_values_is_left_out(
    koji: Koji, composes: Composes, image: Path, changes: dict[str, object]
) -> None:
    folder = add_compose(koji.root, NAME, {"x86_64": [image]})
    path = folder / "compose/metadata/images.json"
    metadata = json.loads(path.read_text())
    metadata["payload"]["images"]["Cloud"]["x86_64"][0] |= changes
    path.write_text(json.dumps(metadata))
    assert composes.find(f"compose:{NAME}").images == ()


@pytest.mark.parametrize(
    "other",
    [
        {"type": "unheard-of"},
        {"type": ["raw-xz"]},
        {},
        None,
        {"type": "raw-xz", "path": "x.raw.xz"},
    ],
)
def test_incomplete_image_hides_no_other(
    koji: Koji, composes: Composes, image: Path, other: object
) -> None:
    folder = add_compose(koji.root, NAME, {"x86_64": [image]})
    path = folder / "compose/metadata/images.json"
    metadata = json.loads(path.read_text())
    metadata["payload"]["images"]["Cloud"]["x86_64"].append(other)
    path.write_text(json.dumps(metadata))
    assert [one.file_name for one in composes.find(f"compose:{NAME}").images] == [FILE]


def test_too_many_images_are_refused_quickly(koji: Koji, composes: Composes, image: Path) -> None:
    folder = add_compose(koji.root, NAME, {"x86_64": [image]})
    path = folder / "compose/metadata/images.json"
    metadata = json.loads(path.read_text())
    metadata["payload"]["images"]["Cloud"]["x86_64"] *= 10_000
    path.write_text(json.dumps(metadata))
    with pytest.raises(ComposeRefused, match="10000 raw images"):
        composes.find(f"compose:{NAME}")


@pytest.mark.parametrize(
    ("limit", "words"), [("DEEPEST", "nested more than 3 deep"), ("MOST_VALUES", "more than 3 val")]
)
def test_metadata_beyond_the_limits_are_refused(
    koji: Koji,
    composes: Composes,
    image: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
    words: str,
) -> None:
    monkeypatch.setattr(f"fedimg.untrusted.json_bounds.{limit}", 3)
    add_compose(koji.root, NAME, {"x86_64": [image]})
    with pytest.raises(ComposeRefused, match=words):
        composes.find(f"compose:{NAME}")


@pytest.mark.parametrize(
    "name",
    [
        "../secret-20260101.0",
        "a/b-20260101.0",
        "",
        "Fedora-43",
        f"{NAME}?x",
        f"{NAME}\n",
        "é-20260101.0",
        "Fedora-٢٠٢٦٠١٠١.٠",
    ],
)
def test_name_that_pungi_does_not_make_is_not_looked_up(composes: Composes, name: str) -> None:
    with pytest.raises(ComposeRefused, match="not of the form compose:ID"):
        composes.find(f"compose:{name}")


@pytest.mark.parametrize(
    ("message", "entry"),
    [
        (compose_message(NAME), f"compose:{NAME}"),
        (compose_message(NAME, "FINISHED_INCOMPLETE"), f"compose:{NAME}"),
        (compose_message(NAME, "STARTED"), None),
        (compose_message("../x-20260101.0"), None),
        ({"compose_id": [NAME], "status": "FINISHED"}, None),
        ({"compose_id": NAME, "status": ["FINISHED"]}, None),
        ([], None),
    ],
)
def test_entry_of_a_compose_message(message: object, entry: str | None) -> None:
    chosen = config.Settings(composes=config.Composes(locations=["https://composes"]))
    assert announcement.entry(announcement.COMPOSE_TOPIC, message, chosen) == entry
    assert announcement.entry(announcement.COMPOSE_TOPIC, message, config.Settings()) is None


def test_site_without_locations_listens_to_koji_alone() -> None:
    assert announcement.COMPOSE_TOPIC not in announcement.topics(config.Settings())
