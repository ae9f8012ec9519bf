"""Runs a workflow in processes that die at chosen points, on a real database."""

import json
import subprocess
import sys
from pathlib import Path

#: Runs a workflow in one process after the other. Each process dies at the next of the given points
#: (`in NAME`: the effect happened but is not recorded; `after NAME`: its result is recorded), and
#: the last one prints the workflow's result.
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


def run(folder: Path, script: str, *points: str, pickling: str = "", exits: int = 0):
    """Run a script behind WORKER; return what its last process printed, or None when it fails.

    Processes up to the one that dies at the point `pickling` record by pickling, as an earlier
    fedimg did. `exits` is the exit status that the script has to end with.
    """
    path = folder / "worker.py"
    path.write_text(WORKER.replace("PICKLING", repr(pickling)) + script)
    done = subprocess.run([sys.executable, path, folder, *points], capture_output=True, text=True)
    assert done.returncode == exits, done.stderr
    return None if exits else json.loads(done.stdout)


def happened(folder: Path) -> list[str]:
    """Return the names of the effects that happened and of the steps recorded, in order."""
    lines = (folder / "happened").read_text().splitlines()
    return [json.loads(line)[0] for line in lines]
