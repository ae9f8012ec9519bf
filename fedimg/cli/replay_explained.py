"""Explain what `fedimg replay --explain` found of an entry, what is taken, and what is left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedimg.cli.app import Call, CommandRefused, ExitCode
from fedimg.exceptions import Cancelled

if TYPE_CHECKING:
    from fedimg.cli.output import Answer
    from fedimg.intake.image_selection import Decisions
    from fedimg.store.store import Store


def explain(call: Call, entry: str) -> ExitCode:
    """Look an entry up at its source now, and answer with a decision for each of its files.

    Nothing is queued. Raises CommandRefused when the source has no such entry or does not answer.
    """
    from fedimg.intake import image_selection
    from fedimg.sources.http import NoAnswer
    from fedimg.sources.lookup import LookupRefused, NotFinished, SourceUnavailable

    try:
        result = image_selection.Sources(call.settings).find(entry)
    except LookupRefused as error:
        raise CommandRefused(ExitCode.UNUSABLE, f"{entry} has no images: {error}") from error
    except (NotFinished, SourceUnavailable, NoAnswer, Cancelled) as error:
        raise CommandRefused(
            ExitCode.FAILED, f"{entry} cannot be explained now: {error}; repeat the command later"
        ) from error
    if old := image_selection.too_old(result, call.settings.intake.max_age_days):
        call.output.note(f"a message about {entry} has no effect: {old}")
    decided = image_selection.decide(result, call.settings.koji)
    call.output.answer(_explained(_store(call), decided))
    return ExitCode.OK


def _store(call: Call) -> Store | None:
    """Return the database; None when there is none yet, so that no image has a job."""
    try:
        return call.store()
    except CommandRefused:
        return None


def _explained(store: Store | None, decided: Decisions) -> Answer:
    """Render each file with its decision, and its job or the reason why it is left out."""
    from fedimg.cli.output import Answer
    from fedimg.cli.page import Table

    rows = []
    for image in decided.chosen:
        job = store.job(image.job) if store else None
        twin = store.twin(image) if store and not job else None
        decision, reason = "not yet taken", "no job publishes it; 'fedimg replay --since' queues it"
        if job:
            decision, reason = "taken", f"job {job.job} is {job.state}"
        elif twin:
            decision, reason = "taken", f"job {twin} publishes the same file"
        rows.append({"file": image.file_name, "decision": decision, "reason": reason})
    rows += [
        {"file": each.name, "decision": "left out", "reason": each.reason}
        for each in sorted(decided.left_out, key=lambda each: not each.by_setting)
    ]
    lines = [list(row.values()) for row in rows]
    shown = Table("File", "Decision", "Reason")
    for line in lines:
        shown.add_row(*line)
    return Answer(rows, lines, [shown], "the entry has no file at all")
