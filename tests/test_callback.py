"""fedora-messaging's callback as a process: Koji's messages, and a database in trouble."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from koji_fedoramessaging_messages.build import BuildStateChangeV1
from koji_fedoramessaging_messages.task import TaskStateChangeV1

from fedimg.jobs.queue import EntryState, JobQueue
from fedimg.sources.identifiers import METHODS
from fedimg.store import heartbeats
from fedimg.store.store import Store
from lab.koji import Koji

pytestmark = pytest.mark.process

#: Says of each message that it gets what becomes of it. Its reactor is no affair of other tests'.
CONSUMER = """
import json, sys
from fedora_messaging.exceptions import Nack
from fedora_messaging.message import Message
from fedimg.callback import Callback

callback = Callback()
for line in sys.stdin:
    topic, body = json.loads(line)
    try:
        callback(Message(topic=topic, body=body))
        print("acknowledged", flush=True)
    except Nack:
        print("back to the queue", flush=True)
"""

SET_UP_LOGGING = """
from fedora_messaging import config
config.conf.setup_logging()
"""
#: Ends the process, and a thread before that, by an error whose text has two lines.
RAISE = """
import threading

def fail():
    raise RuntimeError("one\\n<3>two")

thread = threading.Thread(target=fail)
thread.start()
thread.join()
fail()
"""
#: Receives one message that announces nothing, and then says twice that it works.
WORKING = """
from fedora_messaging.message import Message
from fedimg.callback import Callback

callback = Callback()
callback._say_it_works()
callback(Message(topic="org.fedoraproject.prod.buildsys.other", body={}))
callback._say_it_works()
"""
ROOT = Path(__file__).parent.parent


class Consumer:
    """The process, and the database that it stores to."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        file = folder / "fedimg.toml"
        file.write_text(f'state_directory = "{self.state}"\n')
        self._process = subprocess.Popen(
            [sys.executable, "-c", CONSUMER],
            env=os.environ | {"FEDIMG_CONFIG": str(file), "FEDORA_MESSAGING_CONF": ""},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def given(self, topic: str, body: dict[str, Any]) -> str:
        """Return the result of a message."""
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps([f"org.fedoraproject.prod.{topic}", body]), file=self._process.stdin)
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def known(self, entry: str) -> EntryState:
        store = Store(self.state)
        jobs = JobQueue(store)
        try:
            return jobs.known(entry)
        finally:
            jobs.close()
            store.close()

    def close(self) -> None:
        with self._process:
            self._process.kill()


@pytest.fixture
def consumer(tmp_path: Path) -> Iterator[Consumer]:
    consumer = Consumer(tmp_path)
    yield consumer
    consumer.close()


def valid(kind: Any, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return a message of Koji's that its own schema allows."""
    plain = json.loads(json.dumps(body))
    kind(body=plain).validate()
    return kind.topic, plain


def test_builds_and_tasks_of_every_method_are_stored(
    koji: Koji, consumer: Consumer, tmp_path: Path
) -> None:
    image = tmp_path / "Fedora-Cloud-Base.x86_64.raw.xz"
    image.write_bytes(b"an image")
    files = {"x86_64": [image]}
    for number, (method, child) in enumerate(METHODS.items()):
        build = koji.add_build("Fedora-Cloud-Base", "43", str(number), files, method=method)
        given = valid(BuildStateChangeV1, koji.build_message(build.id))
        assert consumer.given(*given) == "acknowledged"
        assert consumer.known(f"build:{build.id}") is EntryState.QUEUED, method
        if child:
            task = koji.add_task("Fedora-Cloud-Base", "43", str(number), files, method=method)
            given = valid(TaskStateChangeV1, koji.task_message(task.id))
            assert consumer.given(*given) == "acknowledged"
            assert consumer.known(f"task:{task.id}") is EntryState.QUEUED, method


def test_message_that_cannot_be_stored_is_returned_until_it_can(
    koji: Koji, consumer: Consumer
) -> None:
    build = koji.add_build("Fedora-Cloud-Base", "43", "1", {}, method="kiwiBuild")
    given = valid(BuildStateChangeV1, koji.build_message(build.id))
    # A file where the directory should be.
    consumer.state.write_text("")
    assert [consumer.given(*given) for _ in range(2)] == ["back to the queue"] * 2
    consumer.state.unlink()
    assert consumer.given(*given) == "acknowledged"
    assert consumer.known(f"build:{build.id}") is EntryState.QUEUED


def test_consumer_records_when_it_last_received_a_message(tmp_path: Path) -> None:
    file = tmp_path / "fedimg.toml"
    file.write_text('state_directory = "state"\n')
    before = time.time()
    environment = os.environ | {"FEDIMG_CONFIG": str(file), "FEDORA_MESSAGING_CONF": ""}
    subprocess.run([sys.executable, "-c", WORKING], env=environment, check=True)
    with closing(Store(tmp_path / "state")) as store:
        (beat,) = store.heartbeats(heartbeats.CONSUMER)
    assert beat.heard is not None
    assert before <= beat.heard <= beat.at <= time.time()


def test_consumer_logs_one_line_an_event_whatever_a_message_holds(
    koji: Koji, tmp_path: Path
) -> None:
    shipped = (ROOT / "fedora-messaging/fedimg.toml").read_text()
    configuration = tmp_path / "fedora-messaging.toml"
    configuration.write_text(shipped[shipped.index("[log_config]") :])
    Store(tmp_path / "state").close()
    with closing(sqlite3.connect(tmp_path / "state" / "fedimg.db")) as connection:
        connection.execute(
            "CREATE TRIGGER trouble BEFORE INSERT ON workflow_status "
            "BEGIN SELECT RAISE(ABORT, 'no room\n<3>forged: all is well\npassword=hunter2'); END"
        )
    (tmp_path / "fedimg.toml").write_text(f'state_directory = "{tmp_path}/state"\n')
    build = koji.add_build("Fedora-Cloud-Base", "43", "1", {}, method="kiwiBuild")
    topic, body = valid(BuildStateChangeV1, koji.build_message(build.id))
    done = subprocess.run(
        [sys.executable, "-c", f"{SET_UP_LOGGING}{CONSUMER}{RAISE}"],
        env={
            **os.environ,
            "FEDIMG_CONFIG": str(tmp_path / "fedimg.toml"),
            "FEDORA_MESSAGING_CONF": str(configuration),
        },
        input=json.dumps([f"org.fedoraproject.prod.{topic}", body]),
        capture_output=True,
        text=True,
    )
    lines = (done.stdout + done.stderr).splitlines()
    assert "back to the queue" in lines
    logged = [line for line in lines if line != "back to the queue"]
    assert [
        line for line in logged if not re.match(r"(INFO|WARNING|ERROR|CRITICAL) \S+: ", line)
    ] == []
    (told,) = (line for line in logged if "cannot store" in line)
    assert "no room | <3>forged: all is well" in told
    # What nobody caught, in whichever thread.
    assert len([line for line in logged if "RuntimeError: one | <3>two" in line]) == 2
    assert "hunter2" not in done.stdout + done.stderr


def test_message_about_other_things_is_acknowledged_and_ignored(consumer: Consumer) -> None:
    for body in ({}, {"msg": 1}, {"attribute": "state", "new": 1, "build_id": "1; rm -rf /"}):
        assert consumer.given("buildsys.build.state.change", body) == "acknowledged"
    assert not consumer.state.exists()


def test_schemas_that_cannot_be_loaded_end_the_consumer_before_it_takes_a_message(
    tmp_path: Path,
) -> None:
    installed = tmp_path / "broken-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[fedora.messages]\nbroken = no_such_module:V1\n")
    (tmp_path / "fedimg.toml").write_text(f'state_directory = "{tmp_path}"\n')
    ended = subprocess.run(
        [sys.executable, "-c", "from fedimg.callback import Callback; Callback()"],
        env={
            **os.environ,
            "PYTHONPATH": str(tmp_path),
            "FEDIMG_CONFIG": str(tmp_path / "fedimg.toml"),
        },
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1
    assert "cannot load the installed message schemas" in ended.stderr
    assert "no_such_module" in ended.stderr
