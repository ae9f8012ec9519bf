"""The cost of a job, from quantities and prices."""

import pytest

from fedimg.aws.cost import estimate
from fedimg.aws.plan import Plan
from fedimg.config import EC2
from fedimg.images import AMIType

GIB = 1024**3
HVM, PV = AMIType.parse("hvm-gp2"), AMIType.parse("paravirtual-gp2")
PRICES = {
    "snapshot_gib_month": 0.5,
    "transfer_gib": 0.25,
    "instance_hour": 2.0,
    "thousand_blocks": 1.0,
}


def planned() -> Plan:
    regions = ("us-east-1", "us-east-2", "eu-west-1")
    return Plan(
        origin="us-east-1",
        types={region: [HVM, PV] for region in regions},
        left_out={},
        kernels={},
        tested={"us-east-1": [HVM, PV]},
    )


def test_cost_of_a_run_and_of_a_month_by_utility_instance() -> None:
    cost = estimate(4 * GIB, planned(), EC2.model_validate({"prices": PRICES}))
    # Two further regions; an instance that writes and two that boot, a quarter of an hour each.
    assert (cost.transfer, cost.instance_hours, cost.blocks) == (8, 0.75, 0)
    assert cost.once == pytest.approx(8 * 0.25 + 0.75 * 2)
    assert (cost.snapshots, cost.monthly) == (12, 6)
    assert "at most 3.50 USD for a run" in str(cost)
    assert "then 6.00 USD a month (12.0 GiB of snapshots)" in str(cost)


def test_direct_writing_pays_for_blocks_and_no_utility_instance() -> None:
    settings = EC2.model_validate({"prices": PRICES, "write_via": "direct"})
    cost = estimate(GIB + 1, planned(), settings)
    assert (cost.instance_hours, cost.blocks) == (0.5, 2049)
    assert cost.once == pytest.approx(2 * 0.25 * (1 + 1 / GIB) + 0.5 * 2 + 2.049)


def test_site_without_prices_knows_no_cost() -> None:
    assert not EC2().prices.known
    assert not EC2.model_validate({"prices": {"currency": "EUR"}}).prices.known
    assert EC2.model_validate({"prices": PRICES}).prices.known
