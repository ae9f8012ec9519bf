"""`python -m lab`: run a site, announce builds on it, see what is left in its EC2, show it all."""

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from lab import act, announcing, faults, leaks
from lab.running import SiteError

if TYPE_CHECKING:
    from lab.site import Site

_VM = "instances are virtual machines that boot their AMIs' own bytes"

# What a site is made of is loaded by the commands that start one: moto takes seconds.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    commands = parser.add_subparsers(required=True)

    def command(name: str, about: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=about, description=about)
        one.add_argument("--state", type=Path, required=True, help="the site's folder")
        return one

    up = command("up", "run a site until interrupted")
    _take_options_of_up(up)
    up.set_defaults(run=_up)

    announce = command("announce", "add a build to the running site's Koji and send its message")
    announcing.take_options(announce)
    announce.set_defaults(run=announcing.run)

    clock = command("clock", "tell the time of the running site's Koji, or let time pass there")
    clock.add_argument("--advance", type=float, default=0.0, metavar="SECONDS")
    clock.set_defaults(run=announcing.pass_time)

    left = command("ledger", "list what the running site's EC2 holds that is not published")
    leaks.take_options(left)
    left.set_defaults(run=leaks.run)

    wrong = command("faults", "tell what has gone wrong in the running site's EC2 by its plan")
    wrong.add_argument("--plan", type=Path, metavar="FILE", help="follow this plan from now on")
    wrong.set_defaults(run=faults.run)

    acts = command("act", "have the running site do something: ec2.down, koji.up, relay.stop, …")
    act.take_options(acts)
    acts.set_defaults(run=act.run)

    show = command("demo", "publish one image on a new site, from bus message to public AMIs")
    show.add_argument("--vm", action="store_true", help=_VM)
    show.set_defaults(run=_demo)

    about = "build the cloud image that virtual machines boot, unless the cache has it"
    built = commands.add_parser("image", help=about, description=about)
    built.set_defaults(run=_image)

    parsed = parser.parse_args(arguments)
    try:
        status: int = parsed.run(parsed)
    except SiteError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    return status


def _take_options_of_up(up: argparse.ArgumentParser) -> None:
    up.add_argument(
        "--regions",
        default="all",
        help="comma separated, with the origin; default: all of the partition",
    )
    up.add_argument(
        "--partition",
        default="aws",
        help="aws, aws-cn, aws-us-gov or aws-eusc; images are written in us-east-1, cn-north-1, "
        "us-gov-west-1 or eusc-de-east-1",
    )
    up.add_argument(
        "--delays",
        type=float,
        default=1.0,
        metavar="SCALE",
        help="how long EC2 takes, in multiples of the lab's short delays (realistic: 60)",
    )
    up.add_argument(
        "--faults", type=Path, metavar="FILE", help="what goes wrong in EC2: docs/lab.md"
    )
    up.add_argument(
        "--policy",
        type=Path,
        metavar="FILE",
        help="give env.sh the keys of a user with this IAM policy, not the account's own",
    )
    up.add_argument(
        "--instance-store",
        action="store_true",
        help="make buckets and keys for bundles, and have fedimg make instance-store AMIs, too",
    )
    up.add_argument("--vm", action="store_true", help=_VM)


def _image(arguments: argparse.Namespace) -> int:
    from lab import image

    return image.run(arguments)


def _demo(arguments: argparse.Namespace) -> int:
    from lab import demo

    return demo.run(arguments)


def _up(arguments: argparse.Namespace) -> int:
    from lab.ec2.faults import Plan
    from lab.ec2.partitions import ORIGINS, regions_of
    from lab.site import Site, delays

    plan = faults.plan(arguments.faults) if arguments.faults else Plan()
    if arguments.partition not in ORIGINS:
        raise SiteError(f"the partition is to be one of {', '.join(ORIGINS)}")
    named = [] if arguments.regions == "all" else arguments.regions.split(",")
    regions = named or regions_of(arguments.partition)
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        if not stopped.is_set():
            stopped.set()
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        scaled = delays(arguments.delays, regions)
        with Site(
            arguments.state,
            regions,
            delays=scaled,
            faults=plan,
            vm=arguments.vm,
            policy=_policy(arguments.policy),
            instance_store=arguments.instance_store,
        ) as site:
            print(_described(site), flush=True)
            # Not signal.pause(): of two signals at once the kernel may give both to another
            # thread, and then nothing would wake this one, where Python acts on them.
            while True:
                time.sleep(0.2)
    except KeyboardInterrupt:
        print("stopped", flush=True)
    return 0


def _policy(file: Path | None) -> str | None:
    try:
        return file.read_text() if file else None
    except (OSError, UnicodeDecodeError) as error:
        raise SiteError(f"the policy cannot be read: {error}") from error


def _described(site: "Site") -> str:
    hub = " ".join(site.bus.command("fedmsg-hub"))
    return f"""\
A lab site runs in {site.state} until you interrupt it.
  EC2   {site.ec2.url}, {len(site.regions)} regions
  Koji  {site.koji.hub_url}, files {site.koji.top_url}
  bus   {site.bus.outbound}, publish to {site.bus.inbound}

In another terminal:
  cd {site.state} && . ./env.sh     # any EC2 client now talks to this site
  {hub} &
  {Path(sys.executable).parent / "fedimg"} worker &
Then, where lab is:
  {sys.executable} -m lab announce --state {site.state}   # a build, told on the bus
  {sys.executable} -m lab ledger --state {site.state}     # what is left in EC2"""


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    # Everything is closed; taking moto's tables apart would last another two seconds.
    os._exit(status)
