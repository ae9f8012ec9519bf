"""Durable steps of workers that are killed: real processes on a real database."""

import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from tests.jobs.killed_workers import happened, run

pytestmark = pytest.mark.process

MANY = """
def line(name):
    def body(steps):
        # No thread may pass a point before that point is the deadly one.
        while name in "cd" and "publish:b" not in recorded():
            time.sleep(0.02)
        return [take(steps, "copy:" + name), take(steps, "publish:" + name)]

    return Branch(["copy:" + name, "publish:" + name], body)


def work():
    regions = take(steps, "plan", ["a", "b", "c", "d"])
    got = steps.fan_out({name: line(name) for name in regions}, AT_ONCE)
    take(steps, "end")
    return got


in_turns(lambda: once(work).get_result())
"""


def test_recorded_step_is_not_repeated(tmp_path):
    points = ["in plan", "after copy:b", "in publish:b", "in copy:d", "in end", "after end"]
    got = run(tmp_path, MANY.replace("AT_ONCE", "2"), *points)
    assert got == {name: [f"result of copy:{name}", f"result of publish:{name}"] for name in "abcd"}
    recorded: set[str] = set()
    for line in happened(tmp_path):
        if line.startswith("recorded "):
            recorded.add(line.removeprefix("recorded "))
        else:
            assert line not in recorded
    steps = {f"{what}:{name}" for what in ("copy", "publish") for name in "abcd"}
    assert recorded == {"plan", "end"} | steps


def test_unrecorded_step_is_repeated(tmp_path):
    run(tmp_path, MANY.replace("AT_ONCE", "1"), "in copy:b")
    counts = Counter(line for line in happened(tmp_path) if not line.startswith("recorded "))
    assert counts.pop("copy:b") == 2
    assert set(counts.values()) == {1}


FAILING = """
def work():
    def failing(steps):
        time.sleep(0.1)
        refused = EC2ServiceException("refused", image="i", region="b", step="copy", output="o")
        take(steps, "copy:b", error=refused)

    def cancelled(steps):
        take(steps, "copy:a", error=Cancelled())

    lines = {
        "a": Branch(["copy:a", "publish:a"], cancelled),
        "b": Branch(["copy:b"], failing),
        "c": Branch(["copy:c"], lambda steps: take(steps, "copy:c")),
    }
    try:
        steps.fan_out(lines, 3)
    except EC2ServiceException as error:
        told = dict(vars(error))
    take(steps, "end")
    return told


in_turns(lambda: once(work).get_result())
"""


def test_failure_of_a_branch_is_recorded_with_all_fields(tmp_path):
    told = run(tmp_path, FAILING, "in end")
    where = {"image": "i", "region": "b", "step": "copy", "request_id": ""}
    kind = {"later": False, "away": False, "unknown": "", "no_room": 0, "over_quota": False}
    assert told == {"problem": "refused", "output": "o", **kind, **where}
    counts = Counter(line for line in happened(tmp_path) if not line.startswith("recorded "))
    assert counts == {"copy:a": 1, "copy:b": 1, "copy:c": 1, "end": 2}


def test_job_begun_by_a_version_that_pickled_continues(tmp_path):
    got = run(
        tmp_path, MANY.replace("AT_ONCE", "2"), "after copy:b", "in copy:d", pickling="after copy:b"
    )
    assert got == {name: [f"result of copy:{name}", f"result of publish:{name}"] for name in "abcd"}
    assert formats(tmp_path) == {"py_pickle", "portable_json"}
    assert happened(tmp_path).count("copy:b") == 1


def test_pickled_failure_is_read_with_all_fields(tmp_path):
    told = run(tmp_path, FAILING, "in end", pickling="in end")
    assert formats(tmp_path) == {"py_pickle", "portable_json"}
    assert told["problem"] == "refused"
    assert (told["image"], told["region"], told["output"]) == ("i", "b", "o")


def formats(folder: Path) -> set[str]:
    """Return the formats in which the steps are recorded."""
    with closing(sqlite3.connect(folder / "fedimg.db")) as database:
        rows = database.execute("SELECT serialization FROM operation_outputs")
        return {row[0] for row in rows}


CANCELLED = """
from dbos._error import DBOSWorkflowCancelledError


def work():
    def line(name):
        def body(steps):
            take(steps, "copy:" + name)
            while not (state / "cancelled").exists():
                time.sleep(0.01)
            take(steps, "publish:" + name)

        return Branch(["copy:" + name, "publish:" + name], body)

    try:
        steps.fan_out({name: line(name) for name in "ab"}, 2)
    except Exception as error:
        happened("swallowed " + repr(error))


def attempt():
    handle = once(work)
    while not (state / "happened").exists() or len((state / "happened").read_text()) < 50:
        time.sleep(0.01)
    DBOS.cancel_workflow("job")
    (state / "cancelled").touch()
    try:
        handle.get_result()
    except BaseException as error:
        return type(error).__name__


in_turns(attempt)
"""


def test_cancelled_workflow_takes_no_further_step_in_any_branch(tmp_path):
    assert "Cancelled" in run(tmp_path, CANCELLED)
    assert sorted(happened(tmp_path)) == ["copy:a", "copy:b"]
