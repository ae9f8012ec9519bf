"""Word what the checks of an account find, or fail to find out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from botocore.parsers import ResponseParserError

from fedimg.aws.client.error_codes import Meaning
from fedimg.aws.client.errors import UNSUPPORTED, code, meaning_of
from fedimg.diagnostics import Finding, Status


def ok(name: str, text: str) -> list[Finding]:
    """Return what a check says that finds nothing amiss."""
    return [Finding(name, Status.OK, text)]


def problem(name: str, text: str, hint: str) -> list[Finding]:
    """Return what a check says that finds something amiss, with what to do about it."""
    return [Finding(name, Status.PROBLEM, text, hint)]


def unknown(name: str, error: Exception) -> list[Finding]:
    """Return what a check says that AWS did not answer, with what to do about it."""
    reason = code(error) or type(error).__name__
    hint = "look it up in the AWS console"
    if meaning_of(error) in (Meaning.WAIT, Meaning.CREDENTIALS, None):
        hint = "run the check again when EC2 answers"
    elif "Unauthorized" in reason or "AccessDenied" in reason:
        hint = "allow the worker's IAM identity this call, or look it up in the AWS console"
    if isinstance(error, ResponseParserError) or reason in UNSUPPORTED:
        hint = "the answer is not from AWS: this EC2 does not support the call, or a proxy answered"
    return [Finding(name, Status.WARNING, f"unknown ({reason})", hint)]


def merged(by_region: Mapping[str, Iterable[Finding]]) -> list[Finding]:
    """Return the findings of several regions, each once with its regions; sorted by name."""
    where: dict[Finding, list[str]] = {}
    for region, findings in by_region.items():
        for finding in findings:
            where.setdefault(finding, []).append(region)
    count = len(by_region) if len(by_region) > 1 else None
    return [
        Finding(
            one.name,
            one.status,
            f"{one.text} in "
            + (f"all {count} regions" if len(names) == count else ", ".join(names)),
            one.hint,
        )
        for one, names in sorted(where.items(), key=lambda item: item[0].name)
    ]
