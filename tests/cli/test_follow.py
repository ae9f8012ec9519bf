from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fedimg.store.store import Store
from tests.cli.conftest import X86, Run, finish, on_terminal, record_amis


def test_watch_with_json_prints_the_job_at_each_change(
    run: Run, store: Store, x86_job: str
) -> None:
    threading.Timer(0.8, finish, (store, x86_job, "failed", "a reason")).start()
    result = run("status", x86_job, "--watch", "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(row["state"], row["error"]) for row in rows][:: len(rows) - 1] == [
        ("queued", None),
        ("failed", "a reason"),
    ]
    assert result.exit_code == 1


def test_watch_of_a_cancelled_job_waits_for_its_clean_up(
    run: Run, store: Store, x86_job: str
) -> None:
    assert run("cancel", x86_job).exit_code == 0
    threading.Timer(0.8, store.end, (x86_job, 1, "cancelled", None)).start()
    result = run("status", x86_job, "--watch")
    assert result.stdout.splitlines()[-1].split()[:3] == [x86_job, "cancelled", "cancelled"]
    assert result.exit_code == 1


@pytest.mark.process
def test_terminal_shows_bars_and_tables(config: Path, store: Store, x86_job: str) -> None:
    store.begin(x86_job, 1)
    store.set_region(x86_job, "us-east-1", step="write", detail="40 %")
    record_amis(store, X86, "us-east-1", "hvm-gp2")
    ended: list[str] = []

    def seen(so_far: str) -> None:
        if "━" in so_far and "write 40 %" in so_far and not ended:
            ended.append(x86_job)
            finish(store, x86_job, "failed", "a reason")

    watched = on_terminal(config, "status", x86_job, "--watch", seen=seen)
    assert "a reason" in watched
    listed = on_terminal(config, "amis")
    assert "Region" in listed
    assert "ami-us-east-1-x86_64-hvm-gp2" in listed


FEDIMG = Path(sys.executable).parent / "fedimg"


@pytest.mark.process
def test_watch_in_a_pipe_repeats_no_line(config: Path, store: Store, x86_job: str) -> None:
    store.begin(x86_job, 1)
    with subprocess.Popen(
        [FEDIMG, "status", "--watch", x86_job],
        env={**os.environ, "FEDIMG_CONFIG": str(config)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        first = process.stdout.readline()

        def again() -> None:
            # The same step, over seconds.
            for _ in range(4):
                store.set_region(x86_job, "us-east-1", step="write", detail="40 %")
                time.sleep(0.6)
            finish(store, x86_job, "complete")

        thread = threading.Thread(target=again)
        thread.start()
        rest = process.stdout.readlines()
        thread.join()
    texts = [" ".join([*line.split()[:3], *line.split()[4:]]) for line in [first, *rest]]
    assert len(texts) == len(set(texts)), texts
