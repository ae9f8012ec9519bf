"""Log records become lines with fields, or journal entries with priority and fields.

Follows fedimg/process/log_context.py.
"""

import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedimg.process.log_context import fields_of, log_fields
from fedimg.process.logs import JournalHandler

SPOKEN = """
import logging
from fedimg.process import logs
from fedimg.process.log_context import log_fields

logs.to_standard_error()
with log_fields(job="build-1-x", region="eu-west-1"):
    logging.getLogger("fedimg.tests").warning("EC2 does not answer")
logging.getLogger("fedimg.tests").info("all is well")
"""


# As fedora-messaging's configuration has it, or fedmsg's.
FOREIGN = """
import logging, os, sys
from fedimg.process import logs

journal = os.fstat(int(os.environ["JOURNAL"]))
os.environ["JOURNAL_STREAM"] = f"{journal.st_dev}:{journal.st_ino}"
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s %(message)s")
logs.one_line_each()
logging.getLogger("pika").error("the broker is gone\\n<6>and all is well")
logging.getLogger("pika").info("connected")
logs.print_error("fedimg: unknown key a\\nunknown key b")
"""


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    """Return a socket that takes entries as the journal's does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as received:
        received.bind(str(tmp_path / "journal"))
        received.settimeout(5)
        yield received


def record(level: int, text: str, **more: str) -> logging.LogRecord:
    return logging.makeLogRecord({"name": "fedimg.tests", "levelno": level, "msg": text, **more})


def entry(journal: socket.socket) -> dict[str, str]:
    lines = journal.recv(65536).decode().splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_entry_of_the_journal_has_priority_and_fields(journal: socket.socket) -> None:
    handler = JournalHandler(journal.getsockname())
    with log_fields(job="build-1-x"):
        handler.emit(record(logging.WARNING, "away", region="eu-west-1"))
    assert entry(journal) == {
        "MESSAGE": "away",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "fedimg",
        "LOGGER": "fedimg.tests",
        "FEDIMG_JOB": "build-1-x",
        "FEDIMG_REGION": "eu-west-1",
    }
    handler.emit(record(logging.INFO, "well"))
    told = entry(journal)
    assert (told["PRIORITY"], "FEDIMG_JOB" in told) == ("6", False)


def test_text_of_others_adds_no_field_to_an_entry(journal: socket.socket) -> None:
    JournalHandler(journal.getsockname()).emit(record(logging.INFO, "a\nPRIORITY=0\nb"))
    told = entry(journal)
    assert (told["MESSAGE"], told["PRIORITY"]) == ("a PRIORITY=0 b", "6")


def test_entry_that_the_journal_does_not_take_is_printed_with_its_priority(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    JournalHandler(str(tmp_path / "nowhere")).emit(record(logging.ERROR, "failed"))
    assert capsys.readouterr().err == "<3>failed\n"


@pytest.mark.process
def test_lines_end_with_the_fields_where_no_journal_listens() -> None:
    for stream in ("", "1:2"):
        environment = {**os.environ, "JOURNAL_STREAM": stream}
        said = subprocess.run(
            [sys.executable, "-c", SPOKEN], capture_output=True, text=True, env=environment
        ).stderr.splitlines()
        first = "WARNING fedimg.tests: EC2 does not answer job=build-1-x region=eu-west-1"
        assert said[0].split(" ", 1)[1] == first
        assert said[1].endswith("INFO fedimg.tests: all is well")


@pytest.mark.process
@pytest.mark.parametrize("journal", [1, 2, 0])
def test_lines_of_foreign_formats_have_priorities_where_the_journal_reads_them(
    journal: int,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FOREIGN],
        env={**os.environ, "JOURNAL": str(journal)},
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        check=True,
        timeout=60,
    )
    error, info = ("<3>", "<6>") if journal == 1 else ("", "")
    assert done.stdout.splitlines() == [
        f"{error}ERROR the broker is gone | <6>and all is well",
        f"{info}INFO connected",
    ]
    ended = "<3>" if journal == 2 else ""
    assert done.stderr.splitlines() == [
        f"{ended}fedimg: unknown key a",
        f"{ended}unknown key b",
    ]


def test_fields_belong_to_one_thread() -> None:
    others: list[dict[str, str]] = []
    with log_fields(job="a"), log_fields(region="b"):
        thread = threading.Thread(target=lambda: others.append(fields_of(record(20, ""))))
        thread.start()
        thread.join()
        assert fields_of(record(20, "")) == {"job": "a", "region": "b"}
    assert others == [{}]
    assert fields_of(record(20, "")) == {}
