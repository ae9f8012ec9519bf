"""The lab's Koji as its clients see it: xmlrpc.client for the hub, requests for the files.

Follows lab/koji/*.py.
"""

import hashlib
import socket
import time
import xmlrpc.client
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

import pytest
import requests

from lab.koji import Koji
from lab.koji.builds import METHODS

NAME, VERSION, RELEASE = "Fedora-Cloud-Base", "22", "20150705"


@pytest.fixture
def hub(koji: Koji) -> Iterator[Any]:
    with xmlrpc.client.ServerProxy(koji.hub_url, allow_none=True) as proxy:
        yield proxy


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / f"{NAME}-{VERSION}-{RELEASE}.x86_64.raw.xz"
    path.write_bytes(bytes(range(256)) * 4096)
    return path


def starred(**keywords: Any) -> dict[str, Any]:
    return keywords | {"__starstar": True}


def test_scratch_task_is_answered_as_a_real_hub_does(koji: Koji, hub: Any, image: Path) -> None:
    task = koji.add_task(NAME, VERSION, RELEASE, {"x86_64": [image], "i386": []}, owner="ausil")

    assert "request" not in hub.getTaskInfo(task.id)
    info = hub.getTaskInfo(task.id, True)
    assert info["method"] == "image"
    assert info["state"] == 2
    assert info["request"][-1]["scratch"] is True
    assert hub.getUser(info["owner"])["name"] == "ausil"
    assert info["completion_time"].endswith("+00:00")
    assert isinstance(info["completion_ts"], float)

    assert hub.getTaskResult(task.id).startswith("Scratch image build results in: ")
    children = hub.getTaskChildren(task.id)
    assert {child["method"] for child in children} == {"createImage"}
    assert hub.getTaskDescendents(task.id) == {str(task.id): children}
    built = hub.getTaskResult(children[0]["id"])
    assert built["arch"] == "x86_64"
    assert built["task_id"] == children[0]["id"]
    assert image.name in built["files"]


def test_koji_command_gets_the_further_answers_that_it_needs(
    koji: Koji, hub: Any, image: Path
) -> None:
    """Run `koji taskinfo`, `buildinfo`, `list-builds --package` and the downloads."""
    task = koji.add_task(NAME, VERSION, RELEASE, {"x86_64": [image]}, owner="ausil")
    (child,) = hub.getTaskChildren(task.id)
    assert image.name in hub.listTaskOutput(child["id"])
    assert hub.listTaskOutput(child["id"], starred(all_volumes=True))[image.name] == ["DEFAULT"]
    about = hub.listTaskOutput(child["id"], True)[image.name]
    assert about["st_size"] == str(image.stat().st_size)
    assert about == hub.listTaskOutput(child["id"], True, True)[image.name]["DEFAULT"]
    assert hub.listTaskOutput(task.id) == hub.listTaskOutput(1) == []
    assert fault(hub.listTaskOutput, 1, False, False, True) == (1000, "Task doesn't exist")
    host = hub.getHost(hub.getTaskInfo(child["id"])["host_id"])
    assert (host["id"], host["enabled"]) == (child["host_id"], True)
    assert hub.listBuildroots(starred(taskID=child["id"])) == []

    build = koji.add_build(NAME, VERSION, RELEASE, {"x86_64": [image]}, owner="releng")
    number = hub.getPackageID(NAME)
    (row,) = hub.listBuilds(number)
    assert row["build_id"] == build.id
    assert hub.getPackageID("nothing") is None
    assert hub.listTags(build.id) == hub.listRPMs(starred(buildID=build.id)) == []
    assert hub.getMavenBuild(build.id) is hub.getWinBuild(build.id) is None


def test_unknown_ids_and_failed_tasks_are_faults(koji: Koji, hub: Any, image: Path) -> None:
    task = koji.add_task(
        NAME, VERSION, RELEASE, {"x86_64": [image]}, failed_arches=["ppc64le"], owner="ausil"
    )
    failed = next(one for one in hub.getTaskChildren(task.id) if one["arch"] == "ppc64le")

    assert failed["state"] == 5
    assert hub.getTaskInfo(1) is None
    assert hub.getBuild(1) is None
    assert hub.getUser("nobody") is None
    assert fault(hub.getTaskResult, 1) == (1000, "No such task")
    code, text = fault(hub.getTaskResult, failed["id"])
    assert (code, text.partition(":")[0]) == (1005, "BuildError")
    with pytest.raises(xmlrpc.client.Fault, match="Invalid method"):
        hub.deleteBuild(1)


def test_multicall_gives_lists_and_fault_dicts(koji: Koji, hub: Any, image: Path) -> None:
    task = koji.add_task(NAME, VERSION, RELEASE, {"x86_64": [image]})

    good, unknown, bad = hub.multiCall(
        [
            {"methodName": "getTaskInfo", "params": [task.id]},
            {"methodName": "getTaskInfo", "params": [1]},
            {"methodName": "getTaskResult", "params": [1]},
        ]
    )

    assert good[0]["id"] == task.id
    assert unknown == [None]
    assert set(bad) == {"faultCode", "faultString", "traceback"}
    assert bad["faultCode"] == 1000


@pytest.mark.parametrize("method", METHODS)
def test_every_image_method_has_builds(koji: Koji, hub: Any, image: Path, method: str) -> None:
    build = koji.add_build(NAME, VERSION, RELEASE, {"x86_64": [image]}, method=method)

    info = hub.getBuild(build.id)
    assert info == hub.getBuild(f"{NAME}-{VERSION}-{RELEASE}")
    assert (info["owner_name"], info["state"]) == ("releng", 1)
    task = hub.getTaskInfo(info["task_id"], True)
    assert task["method"] == method
    children = hub.getTaskChildren(task["id"])
    assert [child["method"] for child in children] == (
        [] if method == "osbuildImage" else [METHODS[method].child]
    )
    (archive,) = [
        row
        for row in hub.listArchives(starred(buildID=build.id, type="image"))
        if row["type_name"] == "raw-xz"
    ]
    assert archive["filename"] == image.name
    assert archive["arch"] == "x86_64"
    assert archive["size"] == image.stat().st_size
    assert archive["checksum_type"] == 2
    assert archive["checksum"] == hashlib.sha256(image.read_bytes()).hexdigest()
    url = f"{koji.top_url}/packages/{NAME}/{VERSION}/{RELEASE}/images/{image.name}"
    assert requests.get(url, timeout=60).content == image.read_bytes()


@pytest.mark.parametrize(("method", "generator"), [("osbuildImage", "osbuild"), ("image", None)])
def test_build_tells_the_content_generator_that_imported_it(
    koji: Koji, hub: Any, image: Path, method: str, generator: str | None
) -> None:
    build = koji.add_build(NAME, VERSION, RELEASE, {"x86_64": [image]}, method=method)
    info = hub.getBuild(build.id)
    assert (info["cg_name"], info["cg_id"] is None) == (generator, generator is None)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("image", 9),
        ("kiwiBuild", 10),
        ("imageBuilderBuild", 9),
        ("livemedia", 9),
        ("appliance", 9),
    ],
)
def test_child_is_asked_as_kojis_handlers_ask(
    koji: Koji, hub: Any, image: Path, method: str, words: int
) -> None:
    task = koji.add_task(NAME, VERSION, RELEASE, {"x86_64": [image]}, method=method)
    (child,) = hub.getTaskChildren(task.id, True)
    request = child["request"]
    assert len(request) == words
    assert request[:4] == [NAME, VERSION, RELEASE, "x86_64"]
    assert request[-1]["scratch"] is True


@pytest.mark.parametrize("method", [name for name in METHODS if name != "osbuildImage"])
def test_every_method_has_scratch_tasks(koji: Koji, hub: Any, image: Path, method: str) -> None:
    task = koji.add_task(NAME, VERSION, RELEASE, {"x86_64": [image]}, method=method)
    message = koji.task_message(task.id)

    (child,) = hub.getTaskChildren(task.id)
    folder = f"tasks/{child['id'] % 10000}/{child['id']}"
    url = f"{koji.top_url}/work/{folder}/{image.name}"
    assert requests.head(url, timeout=60).status_code == 200
    assert koji.url(next(path for path in koji.paths(task) if path.name == image.name)) == url
    assert message["method"] == method
    by_target = method in ("kiwiBuild", "imageBuilderBuild")
    assert message["srpm"] == ("f22-candidate" if by_target else NAME)


def test_task_folders_are_not_zero_padded(koji: Koji, image: Path) -> None:
    task = koji.add_task(NAME, VERSION, RELEASE, {"x86_64": [image]})

    assert "/work/tasks/61/110410061/" in koji.url(koji.paths(task)[0])


def test_integers_over_32_bits_are_transferred(koji: Koji) -> None:
    big = "<value><i8>3221225472</i8></value>"
    params = f"<params><param>{big}</param></params>"
    call = f"<methodCall><methodName>echo</methodName>{params}</methodCall>"

    answer = requests.post(koji.hub_url, data=call, timeout=60)

    assert xmlrpc.client.loads(answer.content)[0] == ([3 << 30],)


def test_catch_up_lists_what_was_completed_since(koji: Koji, hub: Any, image: Path) -> None:
    for day in range(4):
        koji.clock = lambda day=day: 1_000_000.0 + 86400 * day  # type: ignore[misc]
        koji.add_build(NAME, VERSION, f"{day}", {"x86_64": [image]}, method=None)
        koji.add_task(NAME, VERSION, f"{day}", {"x86_64": [image]})
    koji.add_build(NAME, VERSION, "broken", {"x86_64": [image]}, state="FAILED")
    since = 1_000_000.0 + 86400

    builds = hub.listBuilds(starred(type="image", state=1, completeAfter=since))
    # In no order, as none was asked for.
    assert {build["release"] for build in builds} == {"2", "3"}
    assert hub.listBuilds(starred(type="maven", state=1)) == []
    wanted = {"method": "image", "state": [2], "completeAfter": since, "decode": True}
    options = {"limit": 1, "offset": 1, "order": "id"}
    (task,) = hub.listTasks(wanted, options)
    assert task["owner_name"] == "ausil"
    assert task["request"][0] == NAME
    assert task["completion_ts"] == 1_000_000.0 + 3 * 86400
    newest = hub.listTasks(wanted, {"order": "-completion_ts", "limit": 1})
    assert newest == [task]


def test_state_survives_a_restart(tmp_path: Path, image: Path) -> None:
    first = Koji(tmp_path / "koji")
    build = first.add_build(NAME, VERSION, RELEASE, {"x86_64": [image]})
    task = first.add_task(NAME, VERSION, RELEASE, {"x86_64": [image]}, failed_arches=["i386"])
    message = first.build_message(build.id)
    first.close()

    second = Koji(tmp_path / "koji", port=first.port)
    try:
        assert second.build_message(build.id) == message
        assert second.records.find_task(task.id) == task
        later = second.add_task(NAME, VERSION, RELEASE, {"x86_64": [image]})
        assert later.id > max(one.id for one in first.records.tasks())
    finally:
        second.close()


def test_messages_have_the_fields_consumers_rely_on(koji: Koji, image: Path) -> None:
    files = {"x86_64": [image], "i386": [image]}
    task = koji.task_message(koji.add_task(NAME, VERSION, RELEASE, files, owner="ausil").id)
    build = koji.build_message(koji.add_build(NAME, VERSION, RELEASE, files).id)
    alone = koji.build_message(koji.add_build(NAME, VERSION, "2", files, method=None).id)

    assert (task["old"], task["new"], task["attribute"]) == ("OPEN", "CLOSED", "state")
    assert (task["owner"], task["instance"], task["srpm"]) == ("ausil", "primary", NAME)
    assert task["info"]["id"] == task["id"]
    assert task["info"]["result"].startswith("Scratch image build results in: ")
    children = [(child["arch"], child["state"]) for child in task["info"]["children"]]
    assert children == [("x86_64", 2), ("i386", 2)]
    assert isinstance(task["info"]["completion_time"], float)
    assert task["files_base_url"] == f"{koji.top_url}/work"
    assert "weight" not in task["info"]

    assert (build["old"], build["new"], build["owner"]) == (0, 1, "releng")
    assert (build["name"], build["version"], build["release"]) == (NAME, VERSION, RELEASE)
    assert [child["method"] for child in build["task"]["children"]] == ["createImage"] * 2
    assert (alone["task"], alone["task_id"]) == (None, None)


@pytest.mark.parametrize(
    ("header", "status", "first", "last"),
    [
        (None, 200, 0, None),
        ("bytes=0-9", 206, 0, 10),
        ("bytes=1048570-", 206, 1048570, None),
        ("bytes=-12", 206, -12, None),
        ("bytes=10-99999999", 206, 10, None),
        ("bytes=0-1,5-6", 200, 0, None),
        ("lines=1-2", 200, 0, None),
    ],
)
def test_byte_ranges_are_served(
    koji: Koji, image: Path, header: str | None, status: int, first: int, last: int | None
) -> None:
    koji.add_build(NAME, VERSION, RELEASE, {"x86_64": [image]})
    url = f"{koji.top_url}/packages/{NAME}/{VERSION}/{RELEASE}/images/{image.name}"
    headers = {"Range": header} if header else {}

    answer = requests.get(url, headers=headers, timeout=60)

    expected = image.read_bytes()[first:last]
    assert answer.status_code == status
    assert answer.content == expected
    assert answer.headers["Accept-Ranges"] == "bytes"
    head = requests.head(url, headers=headers, timeout=60)
    assert head.status_code == status
    assert head.headers["Content-Length"] == str(len(expected))
    if status == 206:
        start = first % 1048576
        span = f"bytes {start}-{start + len(expected) - 1}/1048576"
        assert answer.headers["Content-Range"] == span


def test_byte_range_outside_of_the_file_is_refused(koji: Koji, image: Path) -> None:
    koji.add_build(NAME, VERSION, RELEASE, {"x86_64": [image]})
    url = f"{koji.top_url}/packages/{NAME}/{VERSION}/{RELEASE}/images/{image.name}"

    for header in ("bytes=1048576-", "bytes=-0"):
        answer = requests.get(url, headers={"Range": header}, timeout=60)
        assert answer.status_code == 416
        assert answer.headers["Content-Range"] == "bytes */1048576"
    stale = {"Range": "bytes=0-9", "If-Range": '"another version"'}
    assert requests.get(url, headers=stale, timeout=60).status_code == 200


def test_many_clients_are_answered_at_once(koji: Koji, image: Path) -> None:
    koji.add_build(NAME, VERSION, RELEASE, {"x86_64": [image]})
    url = f"{koji.top_url}/packages/{NAME}/{VERSION}/{RELEASE}/images/{image.name}"

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: requests.get(url, timeout=60).content, range(32)))

    assert set(answers) == {image.read_bytes()}


@pytest.mark.parametrize("path", ["../records.json", "%2e%2e/records.json", "", "packages", "a%00"])
def test_nothing_but_the_files_is_served(koji: Koji, image: Path, path: str) -> None:
    koji.add_build(NAME, VERSION, RELEASE, {"x86_64": [image]})
    with socket.create_connection(("127.0.0.1", koji.port), timeout=60) as raw:
        raw.sendall(f"GET /kojifiles/{path} HTTP/1.0\r\n\r\n".encode())
        assert b" 404 " in raw.recv(100)
    assert requests.post(f"{koji.top_url}/{path}", timeout=60).status_code == 405


def test_hub_comes_back_at_the_same_address(koji: Koji, hub: Any) -> None:
    koji.down()
    with pytest.raises(xmlrpc.client.ProtocolError) as caught:
        hub.getAPIVersion()
    assert caught.value.errcode == 503
    koji.down(refusing=True)
    with pytest.raises(OSError):
        requests.get(koji.hub_url, timeout=60)
    koji.up()
    assert hub.getAPIVersion() == 1


def fault(call: Any, *arguments: Any) -> tuple[int, str]:
    with pytest.raises(xmlrpc.client.Fault) as caught:
        call(*arguments)
    return caught.value.faultCode, caught.value.faultString


def test_lists_take_the_options_that_koji_has(koji: Koji, hub: Any, image: Path) -> None:
    task = koji.add_task(NAME, VERSION, RELEASE, {"x86_64": [image]}, owner="ausil")
    build = koji.add_build(NAME, VERSION, RELEASE, {"x86_64": [image]}, owner="releng")
    (child,) = koji.records.children(task.id)

    def tasks(**opts: Any) -> set[int]:
        return {row["id"] for row in hub.listTasks(opts, {"order": "completion_time,id"})}

    both = {task.id, build.task}
    assert tasks(method="image", parent=None) == both
    assert tasks(method="createImage", parent=task.id, not_arch=["noarch"]) == {child.id}
    assert tasks(owner=task.owner, not_parent=task.id) == {task.id}
    assert tasks(method="image", not_state=[2]) == set()
    # A time of 0 is one for tasks and none for builds.
    assert tasks(method="image", completedAfter=task.created, createdAfter=1.0) == both
    assert len(hub.listBuilds(starred(completeAfter=0, taskID=-1, draft=False))) == 1
    assert hub.listBuilds(starred(queryOpts={"countOnly": True})) == 1
    (row,) = hub.listBuilds(starred(type="image"))
    assert (row["build_id"], row["promotion_ts"]) == (build.id, None)
    assert "id" not in row
    (row,) = hub.listTasks({"method": "image", "owner": task.owner}, {"limit": 0})
    assert row["request"].startswith("<?xml")


def test_lists_refuse_what_koji_cannot_do(koji: Koji, hub: Any, image: Path) -> None:
    koji.add_task(NAME, VERSION, RELEASE, {"x86_64": [image]})
    assert "not a list" in fault(hub.listTasks, {"state": 2})[1]
    assert fault(hub.listTasks, {"state": []})[0] == 1
    assert fault(hub.listTasks, {"method": ["image", "appliance"]})[0] == 1
    assert fault(hub.listTasks, {"method": "none", "completeAfter": 1e12})[0] == 1
    assert fault(hub.listTasks, {"method": "none"}, {"order": "nothing"})[0] == 1
    assert fault(hub.listTasks, {"method": "none"}, {"limit": "x"})[0] == 1
    assert fault(hub.listTasks, {"method": "none"}, {"limit": -1})[0] == 1
    assert fault(hub.listBuilds, starred(state="COMPLETE"))[0] == 1
    assert fault(hub.listBuilds, starred(userID=[1]))[0] == 1000
    assert fault(hub.listArchives, starred(buildID="x"))[0] == 1
    assert fault(hub.listArchives, starred(type="cake"))[0] == 1000
    assert fault(hub.listTasks, {"owner": "ausil"})[0] == 1
    assert "'completed_after'" in fault(hub.listTasks, {"completed_after": 5})[1]
    assert fault(hub.listTasks, {}, {"order": "nothing"})[0] == 1
    assert fault(hub.listTasks, {}, {"orderby": "id"})[0] == 1000
    assert fault(hub.listBuilds, starred(method="image"))[0] == 1019
    assert fault(hub.listBuilds, starred(type="cake")) == (1000, "unsupported build type: cake")
    assert fault(hub.listBuilds, starred(completeAfter="soon"))[0] == 1


def test_lists_show_the_results_of_tasks(koji: Koji, hub: Any, image: Path) -> None:
    for state in ("CLOSED", "FAILED", "OPEN", "CANCELED"):
        koji.add_task(NAME, VERSION, RELEASE, {"x86_64": [image]}, state=state)

    def results(decode: bool) -> list[Any]:
        opts = {"parent": None, "decode": decode}
        return [row["result"] for row in hub.listTasks(opts, {"order": "id"})]

    closed, failed, *others = results(decode=True)
    assert [type(one) for one in closed] == [str]
    assert failed["faultCode"] == 1005
    assert others == [None, None]
    closed, failed, *others = results(decode=False)
    assert xmlrpc.client.loads(closed)[0][0].startswith("Scratch image build")
    with pytest.raises(xmlrpc.client.Fault, match="BuildError"):
        xmlrpc.client.loads(failed)
    assert others == [None, None]


def test_task_without_a_result_answers_with_its_fault(koji: Koji, hub: Any, image: Path) -> None:
    running, cancelled = (
        koji.add_task(NAME, VERSION, RELEASE, {"x86_64": [image]}, state=state).id
        for state in ("OPEN", "CANCELED")
    )
    assert fault(hub.getTaskResult, running) == (1000, f"Task {running} is not finished")
    assert fault(hub.getTaskResult, cancelled) == (1000, f"Task {cancelled} is canceled")


@pytest.mark.parametrize(
    ("call", "arguments", "code"),
    [
        ("getTaskInfo", ["x"], 1019),
        ("getTaskInfo", [None], 1019),
        ("getTaskInfo", [{"id": 1}], 1019),
        ("getTaskInfo", [1, False, True], 1000),
        ("getTaskInfo", [1, False, True, 4], 1019),
        ("getTaskResult", ["x"], 1019),
        ("getTaskRequest", [1], 1000),
        ("getUser", [], 1000),
        ("getUser", [[1]], 1000),
        ("getBuild", [None], 1000),
        ("getBuild", ["nonsense"], 1000),
        ("getBuild", [1, True], 1000),
        ("multiCall", [5], 1),
        ("multiCall", [], 1019),
    ],
)
def test_arguments_that_koji_refuses_are_refused(
    hub: Any, call: str, arguments: list[Any], code: int
) -> None:
    assert fault(getattr(hub, call), *arguments)[0] == code


def test_one_bad_call_of_many_is_a_fault_of_its_own(hub: Any) -> None:
    bad, worse, good = hub.multiCall(
        [5, {"methodName": "hello"}, {"methodName": "hello", "params": []}]
    )
    assert (bad["faultCode"], worse["faultCode"]) == (1, 1)
    assert good == ["Hello World"]


@pytest.mark.parametrize(
    ("fault", "raised"), [("", ExpatError), ("it has no words", xmlrpc.client.Fault)]
)
def test_build_or_task_that_koji_cannot_put_into_words_spoils_every_answer_that_has_it(
    koji: Koji, hub: Any, image: Path, fault: str, raised: type[Exception]
) -> None:
    build = koji.add_build(NAME, VERSION, RELEASE, {"x86_64": [image]}, method="osbuildImage")
    task = koji.add_task(NAME, VERSION, RELEASE, {"x86_64": [image]})
    for number in (build.id, task.id):
        koji.wordless(number, fault)
    for call, *arguments in (
        (hub.getBuild, build.id),
        (hub.listBuilds, starred(type="image")),
        (hub.getTaskInfo, task.id),
        (hub.listTasks, {"method": "image"}),
    ):
        with pytest.raises(raised):
            call(*arguments)
    assert hub.listBuilds(starred(type="image", queryOpts={"countOnly": True})) == 1
    assert hub.hello() == "Hello World"


def test_hub_is_served_over_http(koji: Koji) -> None:
    call = "<methodCall><methodName>hello</methodName></methodCall>"
    answer = requests.post(koji.hub_url, data=call, timeout=60)
    assert answer.headers["Content-Type"] == "text/xml"
    assert answer.headers["Koji-Version"]
    assert [
        requests.request(method, koji.hub_url, timeout=60).status_code for method in ("GET", "HEAD")
    ] == [405, 405]
    for document in (b"", b"<x", b"\xff\xfe"):
        assert requests.post(koji.hub_url, data=document, timeout=60).status_code == 400


def test_offline_hub_comes_back(koji: Koji, hub: Any) -> None:
    koji.offline("planned outage")
    assert fault(hub.getAPIVersion) == (1014, "planned outage")
    koji.up()
    assert hub.getAPIVersion() == 1


def test_scratch_files_are_links_to_their_owners_folder(koji: Koji, hub: Any, image: Path) -> None:
    task = koji.add_task(NAME, VERSION, RELEASE, {"x86_64": [image]}, owner="ausil")
    (child,) = hub.getTaskChildren(task.id)
    path = next(path for path in koji.paths(task) if path.name == image.name)
    assert path.is_symlink()
    assert not path.readlink().is_absolute()
    moved = koji.root / "scratch" / "ausil" / f"task_{child['id']}" / image.name
    assert path.resolve() == moved.resolve()
    assert requests.get(koji.url(path), timeout=60).content == image.read_bytes()


def test_hub_has_a_clock_of_its_own(tmp_path: Path, koji: Koji, image: Path) -> None:
    real = time.time()
    assert abs(koji.advance(7 * 86400) - real - 7 * 86400) < 60
    build = koji.add_build(NAME, VERSION, RELEASE, {"x86_64": [image]})
    assert build.completed is not None
    assert build.completed - real > 6 * 86400
    told = requests.get(koji.hub_url, timeout=60).headers["Date"]
    assert abs(parsedate_to_datetime(told).timestamp() - koji.clock()) < 60
    later = Koji(koji.root.parent)
    try:
        assert later.clock() - real > 6 * 86400
        assert later.advance(-14 * 86400) < real
    finally:
        later.close()


def test_hub_may_fail_at_one_task_or_build(koji: Koji, hub: Any, image: Path) -> None:
    build = koji.add_build(NAME, VERSION, RELEASE, {"x86_64": [image]})
    task = koji.add_task(NAME, VERSION, RELEASE, {"x86_64": [image]})
    koji.trouble(build.id, "KeyError: 'extra'")
    koji.trouble(task.id, "KeyError: 'request'")
    assert fault(hub.getBuild, build.id) == (1, "KeyError: 'extra'")
    assert fault(hub.getTaskInfo, task.id) == (1, "KeyError: 'request'")
    assert len(hub.listBuilds(starred(type="image"))) == 1
    koji.trouble(build.id)
    assert hub.getBuild(build.id)["id"] == build.id
