"""The hub's word about tasks and builds, from the lab's Koji over real XML-RPC.

Follows fedimg/sources/xmlrpc.py.
"""

import hashlib
import socket
import threading
import xmlrpc.client
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from fedimg import config
from fedimg.images import Architecture, RawImage
from fedimg.sources.koji import (
    METHODS,
    KojiFails,
    KojiHub,
    KojiNotFinished,
    KojiRefused,
    KojiUnavailable,
)
from lab.koji import Koji
from tests.stopping import Asleep

NAME, VERSION, RELEASE = "Fedora-Cloud-Base", "28", "1.1"
BUILD = f"{NAME}-{VERSION}-{RELEASE}"
SCRATCH_METHODS = [method for method in METHODS if METHODS[method]]


@pytest.fixture
def hub(koji: Koji) -> KojiHub:
    return KojiHub(settings(koji))


@pytest.fixture
def files(tmp_path: Path) -> dict[str, list[Path]]:
    found = {}
    for arch in ("x86_64", "aarch64"):
        found[arch] = [tmp_path / f"{BUILD}.{arch}.{end}" for end in ("raw.xz", "qcow2")]
        for path in found[arch]:
            path.write_bytes(f"bytes of {path.name}".encode())
    return found


def settings(koji: Koji, timeout: float = 5.0) -> config.Koji:
    return config.Koji(hub=koji.hub_url, topurl=koji.top_url, timeout=timeout)


def test_every_method_is_known_to_the_lab() -> None:
    from lab.koji.builds import METHODS as LAB

    assert {method.parent: method.child for method in LAB.values()} == METHODS


def test_result_without_a_release_is_completed_by_the_childs_request(
    koji: Koji, hub: KojiHub, files: dict[str, list[Path]]
) -> None:
    task = koji.add_task(NAME, VERSION, RELEASE, files, method="imageBuilderBuild")
    for child in koji.records.children(task.id):
        assert child.result["release"] is None
    assert {image.build for image in hub.find(f"task:{task.id}").images} == {BUILD}


@pytest.mark.parametrize("method", SCRATCH_METHODS)
def test_scratch_task_gives_the_raw_images_of_its_children(
    koji: Koji, hub: KojiHub, files: dict[str, list[Path]], method: str
) -> None:
    task = koji.add_task(NAME, VERSION, RELEASE, files, method=method, owner="ausil")
    found = hub.find(f"task:{task.id}")
    children = {child.arch: child.id for child in koji.records.children(task.id)}
    assert (found.entry, found.owner, found.scratch) == (f"task:{task.id}", "ausil", True)
    assert set(found.images) == {
        RawImage(
            url=f"{koji.top_url}/work/tasks/{children[koji_arch] % 10000}/{children[koji_arch]}"
            f"/{BUILD}.{koji_arch}.raw.xz",
            architecture=arch,
            build=BUILD,
            source=f"task-{children[koji_arch]}",
        )
        for koji_arch, arch in (("x86_64", Architecture.X86_64), ("aarch64", Architecture.ARM64))
    }
    for image in found.images:
        assert requests.get(image.url, timeout=60).text == f"bytes of {image.file_name}"


@pytest.mark.parametrize("method", METHODS)
def test_build_gives_its_archives_with_size_and_checksum(
    koji: Koji, hub: KojiHub, files: dict[str, list[Path]], method: str
) -> None:
    build = koji.add_build(NAME, VERSION, RELEASE, files, method=method)
    found = hub.find(f"build:{build.id}")
    assert (found.owner, found.scratch) == ("releng", False)
    assert {image.architecture for image in found.images} == {"x86_64", "arm64"}
    for image in found.images:
        content = requests.get(image.url, timeout=60).content
        assert image.url.endswith(f"/packages/{NAME}/28/1.1/images/{image.file_name}")
        assert image.build == BUILD
        assert image.source == f"build-{build.id}"
        assert image.size == len(content)
        assert image.checksum == f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.mark.parametrize("scratch", [True, False])
def test_names_that_rpm_allows_are_quoted_in_the_address_alone(
    koji: Koji, hub: KojiHub, tmp_path: Path, scratch: bool
) -> None:
    path = tmp_path / "Fedora-Cloud-Base-44~rc1-1^git5+2.x86_64.raw.xz"
    path.write_bytes(b"image")
    about: tuple[str, str, str, dict[str, list[Path]]] = (
        NAME,
        "44~rc1",
        "1^git5+2",
        {"x86_64": [path]},
    )
    made = koji.add_task if scratch else koji.add_build
    entry = f"{'task' if scratch else 'build'}:{made(*about).id}"
    (image,) = hub.find(entry).images
    assert image.build == f"{NAME}-44~rc1-1^git5+2"
    assert image.file_name == path.name
    assert image.url.endswith("/Fedora-Cloud-Base-44~rc1-1%5Egit5+2.x86_64.raw.xz")
    assert requests.get(image.url, timeout=60).content == b"image"


@pytest.mark.parametrize("kind", ["md5", "sha1", "sha256"])
def test_every_checksum_type_of_a_build_is_read(
    koji: Koji, hub: KojiHub, files: dict[str, list[Path]], kind: str
) -> None:
    build = koji.add_build(NAME, VERSION, RELEASE, files, checksum_type=kind)
    (image,) = (
        image for image in hub.find(f"build:{build.id}").images if image.architecture == "x86_64"
    )
    content = files["x86_64"][0].read_bytes()
    assert image.checksum == f"{kind}:{hashlib.new(kind, content).hexdigest()}"


def test_task_without_children_holds_its_files_itself(
    koji: Koji, hub: KojiHub, files: dict[str, list[Path]]
) -> None:
    task = koji.add_task(NAME, VERSION, RELEASE, {"x86_64": files["x86_64"]}, method="livemedia")
    (child,) = koji.records.children(task.id)
    koji.records.add([replace(task, result=child.result), replace(child, parent=None)])
    (image,) = hub.find(f"task:{task.id}").images
    assert image.source == f"task-{task.id}"
    assert f"/work/tasks/{task.id % 10000}/{task.id}/" in image.url


def test_failed_child_leaves_the_others(
    koji: Koji, hub: KojiHub, files: dict[str, list[Path]]
) -> None:
    task = koji.add_task(
        NAME, VERSION, RELEASE, {"x86_64": files["x86_64"]}, failed_arches=["aarch64"]
    )
    assert [image.architecture for image in hub.find(f"task:{task.id}").images] == ["x86_64"]


def test_architecture_comes_from_the_result_not_from_the_name(
    koji: Koji, hub: KojiHub, files: dict[str, list[Path]]
) -> None:
    task = koji.add_task(NAME, VERSION, RELEASE, {"aarch64": files["x86_64"]})
    assert [image.architecture for image in hub.find(f"task:{task.id}").images] == ["arm64"]


def test_architecture_that_ec2_lacks_is_left_out(
    koji: Koji, hub: KojiHub, files: dict[str, list[Path]]
) -> None:
    task = koji.add_task(
        NAME, VERSION, RELEASE, {"i386": files["x86_64"], "aarch64": files["aarch64"]}
    )
    assert [image.architecture for image in hub.find(f"task:{task.id}").images] == ["arm64"]


def test_task_that_is_no_scratch_build_is_left_to_its_build(
    koji: Koji, hub: KojiHub, files: dict[str, list[Path]]
) -> None:
    task = koji.add_task(NAME, VERSION, RELEASE, files, scratch=False)
    with pytest.raises(KojiRefused, match="not a scratch build"):
        hub.find(f"task:{task.id}")


@pytest.mark.parametrize("entry", ["task:999", "build:999", "task:", "build:x", "compose:1", "¹"])
def test_unknown_entry_is_refused(hub: KojiHub, entry: str) -> None:
    with pytest.raises(KojiRefused):
        hub.find(entry)


def test_child_task_is_refused(koji: Koji, hub: KojiHub, files: dict[str, list[Path]]) -> None:
    task = koji.add_task(NAME, VERSION, RELEASE, files)
    with pytest.raises(KojiRefused, match="makes no images"):
        hub.find(f"task:{koji.records.children(task.id)[0].id}")


def test_unfinished_and_failed_entries_are_distinguished(
    koji: Koji, hub: KojiHub, files: dict[str, list[Path]]
) -> None:
    running = koji.add_task(NAME, VERSION, RELEASE, files, state="OPEN")
    failed = koji.add_task(NAME, VERSION, RELEASE, files, state="FAILED")
    building = koji.add_build(NAME, VERSION, RELEASE, files, state="BUILDING")
    deleted = koji.add_build(NAME, VERSION, "2", files, state="DELETED")
    for entry in (f"task:{running.id}", f"build:{building.id}"):
        with pytest.raises(KojiNotFinished):
            hub.find(entry)
    for entry in (f"task:{failed.id}", f"build:{deleted.id}"):
        with pytest.raises(KojiRefused):
            hub.find(entry)


@pytest.mark.parametrize(
    "changes",
    [
        {"files": ["../../etc/passwd.raw.xz"]},
        {"files": [f"{BUILD} x.raw.xz", 7, None, {}, ["a.raw.xz"], "a" * 5000 + ".raw.xz"]},
        {"files": "a.raw.xz"},
        {"files": None},
        {"arch": None},
        {"arch": ["x86_64"]},
        {"arch": "x86_64; reboot"},
        {"name": "a/b"},
        {"name": ".."},
        {"version": None},
        {"release": 1},
    ],
)
def test_hostile_result_of_a_child_gives_no_image(
    koji: Koji, hub: KojiHub, files: dict[str, list[Path]], changes: dict[str, object]
) -> None:
    task = koji.add_task(NAME, VERSION, RELEASE, files)
    bad, _good = koji.records.children(task.id)
    koji.records.add([replace(bad, result={**bad.result, **changes})])
    assert [image.architecture for image in hub.find(f"task:{task.id}").images] == ["arm64"]


@pytest.mark.parametrize(
    "changes",
    [
        {"filename": "../x.raw.xz"},
        {"filename": 5},
        {"size": -1},
        {"size": 0},
        {"size": "12"},
        {"size": True},
        {"checksum": "nothex"},
        {"checksum": "ab"},
        {"checksum": 5},
        {"checksum_type": 9},
        {"checksum_type": "md5"},
        {"arch": "ppc64le"},
        {"arch": 64},
        # Whoever imports a build may describe a file that Koji does not have.
        {"metadata_only": True},
    ],
)
def test_hostile_archive_is_left_out(
    koji: Koji, hub: KojiHub, files: dict[str, list[Path]], changes: dict[str, object]
) -> None:
    build = koji.add_build(NAME, VERSION, RELEASE, files)
    bad, *good = build.archives
    koji.records.add(build=replace(build, archives=(replace(bad, **changes), *good)))  # type: ignore[arg-type]
    assert [image.architecture for image in hub.find(f"build:{build.id}").images] == ["arm64"]


@pytest.mark.parametrize(
    "changes",
    [
        {"method": 5},
        {"method": ["image"]},
        {"state": "CLOSED"},
        {"state": True},
        {"state": 2.0},
        {"request": "scratch"},
        {"request": [{"scratch": "yes"}]},
        {"request": None},
        {"owner": 999},
        {"owner": {"name": "releng"}},
        {"owner": True},
        {"owner": -1},
    ],
)
def test_hostile_task_is_refused(
    koji: Koji, hub: KojiHub, files: dict[str, list[Path]], changes: dict[str, object]
) -> None:
    task = koji.add_task(NAME, VERSION, RELEASE, files)
    koji.records.add([replace(task, **changes)])  # type: ignore[arg-type]
    with pytest.raises(KojiRefused):
        hub.find(f"task:{task.id}")


def test_size_may_exceed_two_gibibytes(
    koji: Koji, hub: KojiHub, files: dict[str, list[Path]]
) -> None:
    build = koji.add_build(NAME, VERSION, RELEASE, files)
    archives = tuple(replace(archive, size=5 << 30) for archive in build.archives)
    koji.records.add(build=replace(build, archives=archives))
    assert hub.find(f"build:{build.id}").images[0].size == 5 << 30


@pytest.mark.parametrize("refusing", [False, True])
def test_hub_that_is_down_is_unavailable_and_comes_back(
    koji: Koji, hub: KojiHub, files: dict[str, list[Path]], refusing: bool
) -> None:
    task = koji.add_task(NAME, VERSION, RELEASE, files)
    koji.down(refusing=refusing)
    with pytest.raises(KojiUnavailable):
        hub.find(f"task:{task.id}")
    koji.up()
    assert hub.find(f"task:{task.id}").images


@pytest.mark.parametrize("fault", ["", "it has no words"], ids=["unreadable", "fault"])
def test_build_that_the_hub_cannot_describe_is_no_outage_of_the_hub(
    koji: Koji, hub: KojiHub, files: dict[str, list[Path]], fault: str
) -> None:
    build = koji.add_build(NAME, VERSION, RELEASE, files)
    koji.wordless(build.id, fault)
    with pytest.raises(KojiFails):
        hub.find(f"build:{build.id}")


def test_task_too_long_to_be_read_is_no_outage_of_the_hub(
    koji: Koji, hub: KojiHub, files: dict[str, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedimg.sources.xmlrpc.ANSWER_LIMIT", 40_000)
    task = koji.add_task(NAME, VERSION, RELEASE, files)
    koji.records.add([replace(task, request=["long" * 12_000, {"scratch": True}])])
    with pytest.raises(KojiFails):
        hub.find(f"task:{task.id}")


def test_hub_that_is_offline_is_unavailable_and_comes_back(
    koji: Koji, hub: KojiHub, files: dict[str, list[Path]]
) -> None:
    """So says a real hub of a planned outage, and while its database is down."""
    build = koji.add_build(NAME, VERSION, RELEASE, files)
    koji.offline("database outage")
    with pytest.raises(KojiUnavailable, match="database outage") as caught:
        hub.find(f"build:{build.id}")
    assert not isinstance(caught.value, KojiFails)
    koji.up()
    assert hub.find(f"build:{build.id}").images


FAULT = "<methodResponse><fault><value><struct><member><name>faultCode</name><value><int>{}</int>"
FAULT += "</value></member><member><name>faultString</name><value><string>no</string></value>"
FAULT += "</member></struct></value></fault></methodResponse>"


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        ("200 OK", "<html>a proxy's page</html>", KojiUnavailable),
        ("200 OK", "", KojiUnavailable),
        ("200 OK", "\xff\xfe", KojiUnavailable),
        ("200 OK", "<methodResponse><params></params></methodResponse>", KojiUnavailable),
        ("200 OK", FAULT.format(1014), KojiUnavailable),
        ("200 OK", FAULT.format(1000), KojiRefused),
        ("302 Found\r\nLocation: http://127.0.0.1:1/", "", KojiUnavailable),
        ("404 Not Found", "no such page", KojiUnavailable),
        ("500 Internal Server Error", "oh", KojiUnavailable),
        ("429 Too Many Requests", "oh", KojiUnavailable),
    ],
)
def test_invalid_answers_raise(status: str, body: str, error: type[Exception]) -> None:
    answer = f"HTTP/1.1 {status}\r\nConnection: close\r\n\r\n{body}".encode("latin-1")
    with Listener([answer]) as listener, pytest.raises(error):
        KojiHub(config.Koji(hub=listener.url, timeout=5)).find("task:5")
    assert "fedimg/" in listener.request


def whole(inner: str) -> str:
    params = f"<params><param>{inner}</param></params>"
    return f"<?xml version='1.0'?><methodResponse>{params}</methodResponse>"


@pytest.mark.parametrize(
    "body",
    [
        whole("<value><array><data>" * 40 + "</data></array></value>" * 40),
        whole("<value/>").replace("<methodR", "<!DOCTYPE methodResponse><methodR", 1),
        whole("<value><int>a</int></value>"),
    ],
    ids=["deep", "document type", "no number"],
)
def test_unreadable_answer_counts_as_a_failure_of_the_hub(body: str) -> None:
    answer = f"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{body}".encode()
    with (
        Listener([answer]) as listener,
        pytest.raises(KojiFails, match="to multiCall cannot be read: its? "),
    ):
        KojiHub(config.Koji(hub=listener.url, timeout=5)).find("task:5")


def answering(*answers: object) -> str:
    """Return an answer to a multiCall."""
    return xmlrpc.client.dumps((list(answers),), methodresponse=True, allow_none=True)


@pytest.mark.parametrize("child", [-5, 2**33])
def test_child_with_an_impossible_id_is_refused(child: int) -> None:
    task = {"id": 5, "method": "image", "state": 2, "owner": 1, "request": [{"scratch": True}]}
    body = answering([task], [[{"id": 77, "method": "createImage", "state": 2}]])
    body = body.replace("<int>77</int>", f"<i8>{child}</i8>")
    answer = f"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{body}".encode()
    with Listener([answer]) as listener, pytest.raises(KojiRefused, match="invalid id"):
        KojiHub(config.Koji(hub=listener.url, timeout=5)).find("task:5")


def test_silent_slow_and_endless_hubs_are_given_up() -> None:
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    drip = [head, *[b"<!---->" for _ in range(100)]]
    for answer, pause in (([], 5.0), (drip, 0.1), ([head, b"x" * (17 << 20)], 0.0)):
        asleep = Asleep()
        with Listener(answer, pause) as listener, pytest.raises(KojiUnavailable):
            KojiHub(config.Koji(hub=listener.url, timeout=1)).find("task:5")
        assert asleep.seconds() < 4


class Listener:
    """Answers one HTTP request with the given bytes, pausing after each piece."""

    def __init__(self, pieces: list[bytes], pause: float = 0.0) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/kojihub"
        self.request = ""
        self._pieces, self._pause = pieces, pause
        self._gone = threading.Event()
        self._thread = threading.Thread(target=self._answer)

    def __enter__(self) -> "Listener":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._gone.set()
        self._thread.join()
        self._socket.close()

    def _answer(self) -> None:
        connection, _ = self._socket.accept()
        with connection:
            # All of it: closing with unread bytes resets the connection.
            while not self.request.endswith("</methodCall>\n"):
                self.request += connection.recv(65536).decode()
            try:
                for piece in self._pieces:
                    connection.sendall(piece)
                    self._gone.wait(self._pause)
                if not self._pieces:
                    self._gone.wait(self._pause)
            except OSError:
                return
