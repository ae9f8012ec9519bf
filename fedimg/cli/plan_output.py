"""Render what would be made of an image, and what a rehearsal made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fedimg.cli.output import Answer
from fedimg.cli.page import Part, Table, Text
from fedimg.records import as_record

if TYPE_CHECKING:
    from fedimg.aws.cost import Cost
    from fedimg.aws.plan import Plan
    from fedimg.images import AMIType, RawImage
    from fedimg.services.rehearsal import Rehearsal

#: What of an estimate is a rehearsal's: it copies nothing and keeps nothing.
_REHEARSED_COST = ("instance_hours", "blocks", "once", "currency")


def plan(
    image: RawImage,
    plan: Plan,
    cost: Cost | None,
    attributes: Mapping[AMIType, Mapping[str, Any]],
) -> Answer:
    """Render the plan of an image: a row for each AMI, and one for each region's exclusions.

    JSON and a terminal also have the KMS keys of encrypted types, the estimated `cost`, if there is
    one, and the `attributes` of each AMI type with EC2's names.
    """
    rows = [
        {"region": region, "name": name, "virt_type": ami_type.virtualization}
        | {"volume_type": ami_type.volume_type, "encrypted": ami_type.encrypted}
        for region, names in plan.names(image).items()
        for name, ami_type in zip(names, plan.all_types(region), strict=True)
    ]
    value = {
        "image": image.name,
        "job": image.job,
        "architecture": image.architecture,
        "origin": plan.origin,
        "amis": rows,
        "left_out": [{"region": name, "reason": why} for name, why in plan.left_out.items()],
        "attributes": {str(ami_type): dict(told) for ami_type, told in attributes.items()},
        "public": plan.public,
        "audience": plan.audience.counts,
        **({"keys": dict(plan.keys)} if plan.keys else {}),
        **({"cost": asdict(cost)} if cost else {}),
    }
    lines = [
        [region, str(ami_type.virtualization), ami_type.storage, name]
        for region, names in plan.names(image).items()
        for name, ami_type in zip(names, plan.all_types(region), strict=True)
    ]
    lines += [[region, "-", "-", reason] for region, reason in plan.left_out.items()]
    table = Table("Region", "AMI types", "Left out")
    for region in {**plan.types, **plan.left_out}:
        types = ", ".join(map(str, plan.all_types(region) if region in plan.types else ()))
        table.add_row(region, types, plan.left_out.get(region, ""))
    page: list[Part] = [Text(image.job, style="bold"), table]
    if not plan.public:
        page.append(Text(f"private: shared with {plan.audience} once they are tested"))
    elif plan.keys:
        page.append(Text(f"encrypted types: shared with {plan.audience} once they are tested"))
    for key in sorted(set(plan.keys.values())):
        where = ", ".join(region for region, each in plan.keys.items() if each == key)
        page.append(Text(f"encrypted types: never public, KMS key {key} in {where}"))
    for ami_type, told in attributes.items():
        said = ", ".join(f"{name} {_attribute(each)}" for name, each in told.items())
        page.append(Text(f"{ami_type}: {said or 'no attributes'}"))
    return Answer(value, lines, [*page, *([Text(f"cost: {cost}")] if cost else [])])


def _attribute(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return " ".join(value) if isinstance(value, list) else str(value)


def rehearsed(done: Rehearsal, cost: Cost | None) -> Answer:
    """Render what a rehearsal did: a row for each step with its seconds, and the cost if known."""
    rows = [*done.steps, ("in all", done.seconds)]
    value = {
        "job": done.job,
        "region": done.plan.origin,
        "amis": [as_record(ami) for ami in done.amis],
        "booted": [
            {"ami": each.ami.id, "checks": [as_record(check) for check in each.checks]}
            for each in done.booted
        ],
        "steps": [{"step": step, "seconds": round(seconds, 1)} for step, seconds in done.steps],
        "seconds": round(done.seconds, 1),
        "removed": done.removed,
        # Nothing stays, so that there is no monthly cost.
        **({"cost": {each: getattr(cost, each) for each in _REHEARSED_COST}} if cost else {}),
    }
    lines = [[step, f"{seconds:.1f} s"] for step, seconds in rows]
    words = _rehearsal_cost(cost) if cost else ""
    lines += [["cost", words]] if words else []
    table = Table("Step", "Seconds")
    for step, seconds in rows:
        table.add_row(step, f"{seconds:.1f}")
    summary = (
        f"{len(done.amis)} AMIs would be public in {done.plan.origin}; "
        f"{done.removed} resources are removed"
    )
    page: list[Part] = [Text(summary), table]
    return Answer(value, lines, [*page, *([Text(f"cost: {words}")] if words else [])])


def _rehearsal_cost(cost: Cost) -> str:
    """Return what a rehearsal costs at most, or its quantities where no price is set."""
    quantities = f"{cost.instance_hours:g} h of instances, {cost.blocks} blocks"
    return f"at most {cost.once:.2f} {cost.currency} ({quantities})" if cost.once else quantities
