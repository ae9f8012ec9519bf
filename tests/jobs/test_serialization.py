"""The queue's tables hold data and no code, whoever wrote them."""

import base64
import json
import pickle
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from dbos import DBOSPortableJSONSerializer, PortableWorkflowError
from dbos import _serialization as library
from hypothesis import given
from hypothesis import strategies as st

from fedimg.aws.instance.attempts import NoCapacity
from fedimg.aws.snapshots import SnapshotFailed
from fedimg.exceptions import (
    Cancelled,
    EC2ServiceException,
    EC2TestException,
    EC2UtilityException,
)
from fedimg.jobs.queue import INTAKE, JobQueue
from fedimg.jobs.serialization import SERIALIZER, RowRefused, as_json, original
from fedimg.store.store import Store
from tests.jobs.killed_workers import happened, run

KINDS = [EC2ServiceException, EC2UtilityException, EC2TestException, SnapshotFailed]
FIELDS: dict[str, Any] = {
    "image": "Fedora-Cloud-Base-28-1.1.x86_64",
    "region": "us-east-1",
    "step": "write",
    "request_id": "8a9e7c5e-0000-4000-8000-000000000000",
    "output": "curl: (22) The requested URL returned error: 404\n",
    "later": True,
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


class Marker:
    """An object whose unpickling creates a file, in place of doing harm."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def pickled(value: object) -> str:
    """Return the row in which an earlier fedimg stored a value."""
    return base64.b64encode(pickle.dumps(value)).decode()


def read(row: str) -> object:
    """Return the value that DBOS reads from a row that is marked as pickled."""
    return library.deserialize_value(row, "py_pickle", SERIALIZER)


@given(JSON)
def test_plain_data_that_was_pickled_is_read(value: object) -> None:
    assert read(pickled(value)) == value


@pytest.mark.parametrize("kind", KINDS)
def test_exception_that_was_pickled_is_read_whole(kind: type[EC2ServiceException]) -> None:
    error = read(pickled(kind("download failed", **FIELDS)))
    assert type(error) is kind
    assert vars(error) == vars(kind("download failed", **FIELDS))


def former_pickle(module: str, name: str, problem: str) -> str:
    """Return the row of an exception as version 8d20456 pickled it, by its class's name then."""
    new, args = b"\x8c", b""
    for text in ("fedimg.exceptions", "_again", module, name, problem):
        args += new + bytes([len(text)]) + text.encode()
        if text in ("_again", name):
            args += b"\x93"
    return base64.b64encode(b"\x80\x04" + args + b"}\x87R.").decode()


def test_exception_of_a_class_that_had_another_name_is_read() -> None:
    error = read(former_pickle("fedimg.aws.attempts", "NoRoom", "no room for t3.small"))
    assert isinstance(error, NoCapacity)
    assert error.problem == "no room for t3.small"
    recorded = PortableWorkflowError("no room", "NoRoom", None, {"problem": "no room"})
    assert type(original(recorded)) is NoCapacity


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), ValueError("odd"), KeyError("x"), Cancelled()]
)
def test_other_exceptions_that_steps_raise_are_read(error: Exception) -> None:
    again = read(pickled(error))
    assert (type(again), str(again)) == (type(error), str(error))


@pytest.mark.parametrize("kind", KINDS)
def test_exception_is_recorded_as_json_and_raised_again_whole(
    kind: type[EC2ServiceException],
) -> None:
    row, name = library.serialize_exception(kind("no room", **FIELDS), None, SERIALIZER)
    assert name == DBOSPortableJSONSerializer().name()
    json.loads(row)
    recorded = library.deserialize_exception(row, name, SERIALIZER)
    assert isinstance(recorded, PortableWorkflowError)
    error = original(recorded)
    assert type(error) is kind
    assert vars(error) == vars(kind("no room", **FIELDS))


def test_error_of_another_class_keeps_its_text() -> None:
    row, name = library.serialize_exception(ValueError("odd"), None, SERIALIZER)
    recorded = library.deserialize_exception(row, name, SERIALIZER)
    assert isinstance(recorded, PortableWorkflowError)
    assert str(original(recorded)) == "odd"


@pytest.mark.parametrize("field", list(FIELDS))
def test_error_with_a_field_of_another_type_is_refused(field: str) -> None:
    data = {"problem": "no room", **FIELDS, field: ["x"]}
    with pytest.raises(RowRefused, match=f"whose field {field} is not of type"):
        original(PortableWorkflowError("no room", "EC2ServiceException", None, data))


def test_row_that_would_run_something_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    for value in (Marker(marker), {"args": (Marker(marker),), "kwargs": {}}, [[Marker(marker)]]):
        with pytest.raises(RowRefused, match=r"Path\.touch|pathlib|getattr") as refused:
            read(pickled(value))
        assert "none of it was executed" in str(refused.value)
        assert not marker.exists()


@pytest.mark.parametrize("row", ["", "x", "gAQ=", base64.b64encode(b"\x80\x04.").decode()])
def test_row_that_is_no_pickle_is_refused(row: str) -> None:
    with pytest.raises(RowRefused, match="data that cannot be decoded"):
        read(row)


def test_value_that_is_not_json_is_not_recorded() -> None:
    with pytest.raises(TypeError):
        as_json({"path": Path("/")})


def test_text_that_no_database_stores_is_recorded_without_it() -> None:
    assert as_json({"name": "a\udcffb", "size": (1, None)}) == {"name": "a?b", "size": [1, None]}


WORK = """
def work():
    take(steps, "plan")
    return take(steps, "end")


def attempt():
    try:
        return once(work).get_result()
    except Exception as error:
        return str(error)


in_turns(attempt)
"""


@pytest.mark.process
def test_worker_refuses_a_step_whose_row_would_run_something(tmp_path: Path) -> None:
    run(tmp_path, WORK.replace("in_turns(attempt)", "deadly = 'after plan'\nattempt()"), exits=9)
    marker = tmp_path / "ran"
    with closing(sqlite3.connect(tmp_path / "fedimg.db")) as database, database:
        database.execute(
            "UPDATE operation_outputs SET output = ?, serialization = 'py_pickle'",
            [pickled(Marker(marker))],
        )
    told = run(tmp_path, WORK)
    assert "none of it was executed" in told
    assert not marker.exists()
    assert "end" not in happened(tmp_path)


def test_hub_queues_json(tmp_path: Path) -> None:
    store = Store(tmp_path)
    queue = JobQueue(store)
    try:
        queue.enqueue_entry("build:1")
        with closing(sqlite3.connect(tmp_path / "fedimg.db")) as database:
            (row,) = database.execute(
                "SELECT name, workflow_input.inputs, serialization"
                " FROM workflow_status JOIN workflow_input USING (workflow_uuid)"
            )
    finally:
        queue.close()
        store.close()
    assert row[0] == INTAKE
    assert row[2] == "portable_json"
    assert json.loads(row[1])["positionalArgs"] == ["build:1"]


def test_reading_an_entry_runs_no_code(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    store = Store(tmp_path)
    queue = JobQueue(store)
    try:
        queue.enqueue_entry("build:1")
        with closing(sqlite3.connect(tmp_path / "fedimg.db")) as database, database:
            database.execute(
                "UPDATE workflow_status SET status = 'SUCCESS', output = ?,"
                " serialization = 'py_pickle'",
                [pickled(Marker(marker))],
            )
        queue.known("build:1")
    finally:
        queue.close()
        store.close()
    assert not marker.exists()
