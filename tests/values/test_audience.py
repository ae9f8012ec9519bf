"""An audience in words, in EC2's permissions, and compared with another one."""

from __future__ import annotations

import pytest

from fedimg.values.audience import Audience, of_permissions

ONE, TWO = "123456789012", "210987654321"
ORGANIZATION = "arn:aws:organizations::123456789012:organization/o-exampleorg1"
UNIT = "arn:aws:organizations::123456789012:ou/o-exampleorg1/ou-exam-12345678"


@pytest.mark.parametrize(
    ("audience", "words"),
    [
        (Audience(), "nobody"),
        (Audience((ONE,)), "1 account"),
        (Audience((ONE, TWO), (ORGANIZATION,)), "2 accounts and 1 organization"),
        (
            Audience((ONE, TWO), (ORGANIZATION,), (UNIT,)),
            "2 accounts, 1 organization and 1 organizational unit",
        ),
    ],
)
def test_audience_in_words_has_no_ids(audience: Audience, words: str) -> None:
    assert str(audience) == words


def test_permissions_name_each_member_and_a_snapshot_has_accounts_alone() -> None:
    audience = Audience((ONE,), (ORGANIZATION,), (UNIT,))
    permissions = audience.launch_permissions()
    assert permissions == [
        {"UserId": ONE},
        {"OrganizationArn": ORGANIZATION},
        {"OrganizationalUnitArn": UNIT},
    ]
    assert audience.volume_permissions() == [{"UserId": ONE}]
    assert of_permissions([{"Group": "all"}, *permissions]) == audience


def test_members_are_added_once_and_removed() -> None:
    audience = Audience((ONE,), (ORGANIZATION,))
    more = audience.plus(Audience((ONE, TWO), (), (UNIT,)))
    assert more == Audience((ONE, TWO), (ORGANIZATION,), (UNIT,))
    assert more.minus(Audience((ONE,), (ORGANIZATION,))) == Audience((TWO,), (), (UNIT,))
    assert Audience((ONE, TWO)).same_as(Audience((TWO, ONE)))
    assert not Audience((ONE,)).same_as(Audience((TWO,)))
