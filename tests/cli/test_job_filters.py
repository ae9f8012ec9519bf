from __future__ import annotations

import time

import pytest

from fedimg.cli.app import CommandRefused
from fedimg.cli.job_filters import beginning, known_states, refuse_unknown_type
from tests.cli.conftest import Run


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
