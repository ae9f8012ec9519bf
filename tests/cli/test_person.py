"""The person who runs a command, and the question to this person."""

import socket

import pytest

from fedimg.cli.app import CommandRefused, ExitCode
from fedimg.cli.person import confirmed, person


def test_person_is_named_with_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_USER", raising=False)
    monkeypatch.setenv("LOGNAME", "ann")
    assert person() == f"ann@{socket.gethostname()}"


def test_caller_of_sudo_is_named_rather_than_its_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "fedimg")
    monkeypatch.setenv("SUDO_USER", "ann")
    assert person() == f"ann@{socket.gethostname()}"


def test_answer_may_be_given_in_advance() -> None:
    assert confirmed("Remove 3 AMIs?", yes=True)


def test_without_a_terminal_the_option_is_named() -> None:
    # pytest closes the standard input, so that nobody can be asked.
    with pytest.raises(CommandRefused, match=r"Remove 3 AMIs\? .*--yes") as refused:
        confirmed("Remove 3 AMIs?", yes=False)
    assert refused.value.code is ExitCode.NOT_NOW
