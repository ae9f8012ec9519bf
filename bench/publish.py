"""publish: from the message to public AMIs everywhere, on an EC2 that takes no time of its own."""

from collections.abc import Sequence

from bench import recording
from bench.deployment import deployed, site
from bench.results import Result

#: The first job also asks each region, by four calls, whether AMIs can become public there; jobs of
#: the next ten minutes do not.
BUDGET = {"calls_per_ami": 6.6, "calls_per_ami_next": 5.0, "wall_over_replay": 2.0}


def run(tiny: bool) -> Result:
    """Publish one image with four AMI types; then make the same calls without fedimg.

    Of a second image, published after that, only the calls are counted.

    What it counts are all calls from the worker's start to the end of the job's clean-up, also
    in the regions, and it is the worker's first job: nothing is known from an earlier one.
    """
    with site(regions=2 if tiny else 0) as (folder, told), deployed(folder, told) as fedimg:
        image = fedimg.build()
        before = fedimg.cpu_seconds()
        began = fedimg.announce([image])
        wall = fedimg.public_at(1) - began
        cpu = fedimg.cpu_seconds() - before
        amis = fedimg.public_amis()
        calls = fedimg.ec2_calls()
        fedimg.announce([fedimg.build()])
        fedimg.public_at(2)
        next_calls, next_amis = len(fedimg.ec2_calls()) - len(calls), fedimg.public_amis() - amis
        machines, replay = _machines(calls), recording.replayed(calls, told["environment"])
    return Result(
        "publish",
        {
            "regions": len(told["regions"]),
            "amis": amis,
            "wall_seconds": wall,
            "machines_seconds": machines,
            "replay_seconds": replay,
            "wall_over_replay": wall / replay,
            "wall_over_both": wall / (machines + replay),
            "cpu_seconds": cpu,
            "ec2_calls": len(calls),
            "calls_per_ami": len(calls) / amis,
            "calls_per_ami_next": next_calls / next_amis,
            **{f"calls_{name}": count for name, count in recording.counted(calls).items()},
        },
        BUDGET,
    )


def _machines(calls: Sequence[recording.Call]) -> float:
    """Seconds from the start of the machines to the end of their work: the utility instance's until
    its volume becomes a snapshot, then the test instances' until the last is let go.

    They boot, answer SSH, write, are checked and rebooted, which the replay leaves out.
    """

    def of(action: str) -> list[recording.Call]:
        return sorted(
            (call for call in calls if call.action == action), key=lambda call: call.began
        )

    utility, *tests = of("RunInstances")
    (written,) = of("CreateSnapshot")
    released = of("TerminateInstances")[-1]
    return written.began - utility.ended + released.began - min(call.ended for call in tests)
