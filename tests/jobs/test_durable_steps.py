"""Durable steps are shown by workers that are killed: real processes on a real database."""

import json
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from fedimg.exceptions import Cancelled, EC2ServiceException
from fedimg.steps import Branch, PlainSteps

#: Runs a workflow in one process after the other: each dies at the next of the given points
#: (`in NAME`: its effect happened, and nobody knows; `after NAME`: its result is recorded), and
#: the last one prints what the workflow came to.
WORKER = """
import json, os, sqlite3, sys, time
from pathlib import Path

from dbos import DBOS, SetWorkflowID

from fedimg.exceptions import Cancelled, EC2ServiceException
from fedimg.jobs.serialization import SERIALIZER
from fedimg.jobs.durable_steps import DurableSteps, Gate
from fedimg.steps import Branch
from fedimg.store.store import Store

state, points = Path(sys.argv[1]), sys.argv[2:]
steps = DurableSteps(Gate(print))
deadly = ""


def happened(what):
    with open(state / "happened", "a") as file:
        file.write(json.dumps([what, time.monotonic()]) + "\\n")


def recorded():
    database = sqlite3.connect(state / "fedimg.db")
    names = [row[0] for row in database.execute("SELECT function_name FROM operation_outputs")]
    database.close()
    return names


def pass_by(point):
    if point == deadly:
        os._exit(9)


def effect(name, result=None, error=None):
    def happen():
        happened(name)
        pass_by("in " + name)
        if error:
            raise error
        return result or "result of " + name

    return happen


def take(steps, name, result=None, error=None):
    got = steps.run(name, effect(name, result, error))
    pass_by("after " + name)
    return got


def pickles():
    return bool(deadly and PICKLING) and PICKLING in points[points.index(deadly):]


def launch(store, **workflows):
    DBOS(config={
        "name": "fedimg", "system_database_url": str(store.engine.url),
        "system_database_engine": store.engine, "application_version": "1",
        "executor_id": "worker", "log_level": "CRITICAL",
        **({} if pickles() else {"serializer": SERIALIZER}),
    })
    made = {
        name: DBOS.workflow(name=name, max_recovery_attempts=None)(workflow)
        for name, workflow in workflows.items()
    }
    DBOS.launch()
    return made


def once(workflow):
    made = launch(Store(state), work=workflow)["work"]
    with SetWorkflowID("job"):
        return DBOS.start_workflow(made)


def in_turns(attempt):
    global deadly
    for deadly in points:
        child = os.fork()
        if not child:
            attempt()
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status == 9, f"did not die {deadly}, exit status {status}"
        for name in recorded():
            happened("recorded " + name)
    deadly = ""
    print(json.dumps(attempt()), flush=True)
    os._exit(0)
"""

MANY = """
def line(name):
    def body(steps):
        # So that no point is passed by before it is deadly, whichever thread is the faster.
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


def run(folder: Path, script: str, *points: str, pickling: str = "", exits: int = 0):
    """What a script's last worker printed.

    Until the one that dies at the point `pickling`, workers record by pickling, as fedimg once did.
    """
    path = folder / "worker.py"
    path.write_text(WORKER.replace("PICKLING", repr(pickling)) + script)
    done = subprocess.run(
        [sys.executable, path, folder, *points], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == exits, done.stderr
    return None if exits else json.loads(done.stdout)


def happened(folder: Path) -> list[str]:
    lines = (folder / "happened").read_text().splitlines()
    return [json.loads(line)[0] for line in lines]


def test_recorded_effect_never_happens_again(tmp_path):
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


def test_effect_that_nobody_knows_of_happens_again(tmp_path):
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


def test_failure_of_a_branch_is_remembered_with_all_it_says(tmp_path):
    told = run(tmp_path, FAILING, "in end")
    where = {"image": "i", "region": "b", "step": "copy", "request_id": ""}
    kind = {"later": False, "away": False, "unknown": ""}
    assert told == {"problem": "refused", "output": "o", **kind, **where}
    counts = Counter(line for line in happened(tmp_path) if not line.startswith("recorded "))
    assert counts == {"copy:a": 1, "copy:b": 1, "copy:c": 1, "end": 2}


def test_job_begun_by_a_version_that_pickled_goes_on(tmp_path):
    got = run(
        tmp_path, MANY.replace("AT_ONCE", "2"), "after copy:b", "in copy:d", pickling="after copy:b"
    )
    assert got == {name: [f"result of copy:{name}", f"result of publish:{name}"] for name in "abcd"}
    assert formats(tmp_path) == {"py_pickle", "portable_json"}
    assert happened(tmp_path).count("copy:b") == 1


def test_failure_that_was_pickled_is_remembered_with_all_it_says(tmp_path):
    told = run(tmp_path, FAILING, "in end", pickling="in end")
    assert formats(tmp_path) == {"py_pickle", "portable_json"}
    assert told["problem"] == "refused"
    assert (told["image"], told["region"], told["output"]) == ("i", "b", "o")


def formats(folder: Path) -> set[str]:
    """How the steps' rows say that they are recorded."""
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


# Plain steps


def line(name: str, body) -> Branch:
    return Branch([name], lambda steps: steps.run(name, body))


def fail(error: BaseException):
    raise error


def test_plain_branches_give_each_its_own_result():
    lines = {name: line(name, lambda name=name: name.upper()) for name in "abc"}
    assert PlainSteps().fan_out(lines, 2) == {"a": "A", "b": "B", "c": "C"}


def test_no_branches_give_nothing():
    assert PlainSteps().fan_out({}, 4) == {}


def test_one_at_a_time_is_one_after_the_other_in_order():
    order: list[str] = []
    PlainSteps().fan_out(
        {name: line(name, lambda name=name: order.append(name)) for name in "cab"}, 1
    )
    assert order == ["c", "a", "b"]


def test_all_at_once_are_all_at_once():
    meeting = threading.Barrier(5, timeout=10)
    PlainSteps().fan_out({name: line(name, meeting.wait) for name in "abcde"}, 5)


def test_other_branches_end_before_a_failure_is_raised():
    ended: list[str] = []
    failed = threading.Event()
    lines = {
        "a": line("a", lambda: (failed.set(), fail(EC2ServiceException("refused")))),
        "b": line("b", lambda: (failed.wait(10), ended.append("b"))),
    }
    with pytest.raises(EC2ServiceException, match="refused"):
        PlainSteps().fan_out(lines, 2)
    assert ended == ["b"]


def test_cancelled_is_raised_only_when_nothing_else_went_wrong():
    cancelled = line("a", lambda: fail(Cancelled()))
    refused = line("b", lambda: fail(EC2ServiceException("refused")))
    late = line("c", lambda: fail(EC2ServiceException("later")))
    with pytest.raises(EC2ServiceException, match="refused"):
        PlainSteps().fan_out({"a": cancelled, "b": refused, "c": late}, 3)
    with pytest.raises(Cancelled):
        PlainSteps().fan_out({"a": cancelled}, 1)
