from __future__ import annotations

import time

import pytest

from fedimg.cli.app import CommandRefused
from fedimg.cli.job_filters import beginning, known_states, newest, refuse_unknown_type
from fedimg.images import Architecture, RawImage
from fedimg.store.rows import JobRow
from tests.cli.conftest import Run


def row(number: int, state: str) -> JobRow:
    image = RawImage.at(f"https://koji.example/{number}.x86_64.raw.xz", Architecture.X86_64, None)
    return JobRow(f"job-{number}", image, 1, state, "", None, number, number)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["status", "--state", "faild"], 'unknown state "faild": did you mean failed?'),
        (["status", "--since", "yesterday"], "--since: "),
        (["amis", "--region", "us-east1"], 'unknown region "us-east1": did you mean us-east-1?'),
        (["amis", "--type", "hvm-gp9"], 'unknown AMI type "hvm-gp9"'),
        (["amis", "--type", "gp9"], 'unknown AMI type "gp9"'),
    ],
)
def test_filter_that_nothing_can_match_is_refused(
    run: Run, x86_job: str, arguments: list[str], said: str
) -> None:
    refused = run(*arguments)
    assert (refused.exit_code, said in refused.stderr) == (2, True), refused.stderr


def test_active_jobs_and_the_newest_ended_ones_are_shown() -> None:
    states = ["complete", "running", "failed", "queued", "cancelled", "incomplete"]
    rows = [row(number, state) for number, state in enumerate(states)]
    shown, dropped = newest(rows, 2)
    assert ([each.job for each in shown], dropped) == (["job-1", "job-3", "job-4", "job-5"], 2)
    assert newest(rows, 4) == (rows, 0)
    assert newest([], 50) == ([], 0)


def test_beginning_is_a_time_or_an_age() -> None:
    assert beginning(None) == 0.0
    assert beginning("1970-01-02") == 86400.0
    assert abs(time.time() - 36 * 3600 - beginning("36h")) < 60


def test_states_of_jobs_are_known() -> None:
    assert known_states(["failed", "queued", "failed"]) == {"failed", "queued"}
    with pytest.raises(CommandRefused, match='unknown state "zzz": known are cancelled, complete'):
        known_states(["zzz"])


@pytest.mark.parametrize("name", ["hvm", "gp3", "paravirtual", "hvm-gp2"])
def test_ami_type_and_each_half_of_one_is_known(name: str) -> None:
    refuse_unknown_type(name)
