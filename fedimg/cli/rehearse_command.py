"""Define `fedimg rehearse`: try an image in the account, and leave nothing of it."""

from __future__ import annotations

from typing import Annotated

import typer

from fedimg.cli.app import Call, ExitCode, command
from fedimg.cli.image_arguments import ArchOption, URLArgument, image_of

#: The exit status of an interrupted command.
_INTERRUPTED = 130


@command
def rehearse(
    call: Call,
    url: URLArgument,
    region: Annotated[
        str,
        typer.Option(
            help="Region of the rehearsal; by default the origin, whose utility AMI it needs."
        ),
    ] = "",
    arch: ArchOption = None,
    checksum: Annotated[
        str | None, typer.Option(help="ALGORITHM:HEX, or the hex digits of a SHA-256.")
    ] = None,
) -> int:
    """Publish an image up to the last step in one region.

    The command tells what each step took, and removes it all. The AMIs are written, registered,
    booted and checked in the account; nothing becomes public, is announced, recorded or in the
    catalogue. AWS charges for the instances and the snapshot.
    """
    from fedimg.aws.client.clients import Clients
    from fedimg.aws.cost import estimate
    from fedimg.cli import plan_output
    from fedimg.exceptions import Cancelled
    from fedimg.process.signals import stop_requested
    from fedimg.services.rehearsal import rehearse
    from fedimg.services.site import Site

    image = image_of(url, arch, checksum)
    settings = call.settings
    site = Site(settings.ec2, settings.site, settings.checks, Clients())
    stop = stop_requested()
    try:
        done = rehearse(
            site, image, region or settings.ec2.origin, tell=call.output.note, stop=stop
        )
    except Cancelled:
        call.output.error("the rehearsal was interrupted; its resources are removed")
        return _INTERRUPTED
    cost = estimate(done.disk.length, done.plan, settings.ec2) if done.disk else None
    if cost and not settings.ec2.prices.known:
        call.output.note("what the quantities cost is unknown: set prices in [ec2.prices]")
    call.output.answer(plan_output.rehearsed(done, cost))
    return ExitCode.OK
