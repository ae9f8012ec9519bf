"""Define `fedimg outbox`: the messages that a bus refuses, and what becomes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fedimg.cli.app import Call, CommandRefused, ExitCode, command

if TYPE_CHECKING:
    from fedimg.store.parked import ParkedMessage
    from fedimg.store.store import Store

#: Names every parked message.
_ALL = "all"


@command
def outbox(
    call: Call,
    resend: Annotated[
        list[str] | None,
        typer.Option(metavar="NUMBER", help="Send a message again; 'all' for every one."),
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option(metavar="NUMBER", help="Give a message up; 'all' for every one."),
    ] = None,
) -> ExitCode:
    """List, resend or drop the messages that a bus refuses.

    A message that a bus refuses is parked: the others go on. Correct the reason, such as the user's
    rights on the broker, before you send it again. A list shows what was parked before the command.
    """
    from fedimg.cli import site_output
    from fedimg.store.parked import Parked

    store = call.store()
    parked = Parked(store)
    messages = parked.all()
    again, given_up = _named(messages, resend or []), _named(messages, drop or [])
    if both := {each.id for each in again} & {each.id for each in given_up}:
        raise CommandRefused(
            ExitCode.UNUSABLE,
            f"message {min(both)} cannot be both sent again and dropped: nothing was changed",
        )
    if again:
        parked.resend([each.id for each in again])
    if given_up:
        parked.drop(given_up, call.settings.bus)
    done = {each.id: "sent again" for each in again} | {each.id: "dropped" for each in given_up}
    shown = [each for each in messages if each.id in done] if done else messages
    call.output.answer(site_output.parked(shown, done))
    return ExitCode.OK


def parked_words(store: Store) -> list[str]:
    """Return the line about parked messages for `fedimg status`, if there are any."""
    from fedimg.store.parked import Parked

    count = Parked(store).count()
    return [f"{count} messages are refused by a bus; 'fedimg outbox' lists them"] if count else []


def _named(messages: list[ParkedMessage], numbers: list[str]) -> list[ParkedMessage]:
    """Return the parked messages that numbers name. Raises CommandRefused for an unknown one."""
    if _ALL in numbers:
        return messages
    found = [each for each in messages if str(each.id) in numbers]
    if missing := set(numbers) - {str(each.id) for each in found}:
        raise CommandRefused(
            ExitCode.UNKNOWN,
            f"no message \"{min(missing)}\" is parked; 'fedimg outbox' lists those that are",
        )
    return found
