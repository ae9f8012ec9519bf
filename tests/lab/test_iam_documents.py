"""IAM's rules for policy documents: what a statement speaks of, and who wins.

Follows lab/ec2/iam/*.py.
"""

import json
from typing import Any

import pytest

from lab.ec2.iam.contexts import context
from lab.ec2.iam.documents import Asked, Malformed, decide, parse

ARN = "arn:aws:ec2:us-east-1:123456789012:instance/i-0123456789abcdef0"


def document(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def allow(**given: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": "ec2:RunInstances", "Resource": "*", **given}


def allows(*statements: dict[str, Any], resource: str = ARN, **given: Any) -> bool:
    """Return whether a policy allows RunInstances; `given` are condition keys, `_` for a colon."""
    keys = {key.replace("_", ":", 1): value for key, value in given.items()}
    asked = Asked("ec2:RunInstances", resource, context(keys))
    return decide(parse(document(*statements)), asked).allowed


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("ec2:RunInstances", True),
        ("EC2:runinstances", True),
        ("ec2:Run*", True),
        ("ec2:?unInstances", True),
        ("*", True),
        ("ec2:Run", False),
        ("ebs:RunInstances", False),
    ],
)
def test_actions_are_compared_without_case_and_with_wildcards(pattern: str, fits: bool) -> None:
    assert allows(allow(Action=[pattern])) is fits


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("*", True),
        (ARN, True),
        ("arn:aws:ec2:*:*:instance/*", True),
        ("arn:aws:ec2:us-*-1:123456789012:instance/i-*", True),
        ("arn:aws:ec2:*:*:*", True),
        ("arn:aws:ec2:*:*:instance/I-*", False),
        ("arn:aws:ec2:*::instance/*", False),
        ("arn:aws:ec2:*:*:volume/*", False),
        # A wildcard ends with its part.
        ("arn:aws:ec2:*:instance/*", None),
    ],
)
def test_resources_are_compared_part_by_part(pattern: str, fits: bool | None) -> None:
    if fits is None:
        with pytest.raises(Malformed, match="is no ARN"):
            allows(allow(Resource=pattern))
        return
    assert allows(allow(Resource=pattern)) is fits


def test_resource_that_is_not_made_yet_matches_a_wildcard_and_no_id() -> None:
    new = "arn:aws:ec2:us-east-1::snapshot/*"
    assert allows(allow(Resource="arn:aws:ec2:*::snapshot/*"), resource=new)
    assert not allows(allow(Resource="arn:aws:ec2:*::snapshot/snap-*"), resource=new)
    only_new = allow(Resource="arn:aws:ec2:*::snapshot/${*}")
    assert allows(only_new, resource=new)
    assert not allows(only_new, resource="arn:aws:ec2:us-east-1::snapshot/snap-1")


def test_action_without_resources_needs_resource_star() -> None:
    assert allows(allow(), resource="*")
    assert not allows(allow(Resource="arn:aws:ec2:*:*:instance/*"), resource="*")


def test_call_needs_an_allow_and_no_deny() -> None:
    deny = {"Effect": "Deny", "Action": "ec2:*", "Resource": "arn:aws:ec2:*:*:instance/*"}
    assert not allows(allow(Action="ec2:StopInstances"))
    assert allows(allow())
    assert not allows(allow(), deny)
    assert not allows(deny, allow())
    decision = decide(
        parse(document(allow(Sid="A"), {**deny, "Sid": "D"})), Asked("ec2:RunInstances", ARN, {})
    )
    assert (decision.explicit, decision.by) == (True, ("D",))


def test_not_action_and_not_resource_match_everything_else() -> None:
    others = {"Effect": "Allow", "NotAction": "ec2:Stop*", "Resource": "*"}
    assert allows(others)
    assert not allows({**others, "NotAction": "ec2:Run*"})
    elsewhere = {"Effect": "Allow", "Action": "*", "NotResource": "arn:aws:ec2:*:*:instance/*"}
    assert not allows(elsewhere)
    assert allows(elsewhere, resource="arn:aws:ec2:us-east-1:1:volume/vol-1")


K = "aws:ResourceTag/site"


@pytest.mark.parametrize(
    ("condition", "values", "holds"),
    [
        ({"StringEquals": {K: "prod"}}, ["prod"], True),
        ({"StringEquals": {K: ["x", "prod"]}}, ["prod"], True),
        ({"StringEquals": {K: "pro*"}}, ["prod"], False),
        ({"StringEquals": {K: "prod"}}, ["Prod"], False),
        ({"StringEquals": {K: "prod"}}, [], False),
        ({"StringEqualsIfExists": {K: "prod"}}, [], True),
        ({"StringEqualsIfExists": {K: "prod"}}, ["x"], False),
        ({"StringEqualsIgnoreCase": {K: "prod"}}, ["PROD"], True),
        ({"StringNotEquals": {K: ["x", "y"]}}, ["prod"], True),
        ({"StringNotEquals": {K: ["x", "prod"]}}, ["prod"], False),
        ({"StringNotEquals": {K: "prod"}}, [], True),
        ({"StringLike": {K: "p?o*"}}, ["prod"], True),
        ({"StringNotLike": {K: "p*"}}, ["prod"], False),
        ({"Null": {K: "true"}}, [], True),
        ({"Null": {K: "true"}}, ["prod"], False),
        ({"Null": {K: False}}, ["prod"], True),
        # Of a key with several values.
        ({"ForAllValues:StringEquals": {K: ["a", "b"]}}, ["a", "b"], True),
        ({"ForAllValues:StringEquals": {K: ["a", "b"]}}, ["a", "c"], False),
        ({"ForAllValues:StringEquals": {K: "a"}}, [], True),
        ({"ForAnyValue:StringEquals": {K: "a"}}, ["c", "a"], True),
        ({"ForAnyValue:StringEquals": {K: "a"}}, ["c"], False),
        ({"ForAnyValue:StringEquals": {K: "a"}}, [], False),
        ({"ForAnyValue:StringNotEquals": {K: "a"}}, ["a", "c"], True),
        ({"ForAllValues:StringNotEquals": {K: "a"}}, ["a", "c"], False),
        # All operators and keys have to hold.
        ({"StringEquals": {K: "prod", "aws:other": "x"}}, ["prod"], False),
        ({"StringEquals": {K: "prod"}, "StringNotLike": {K: "p*"}}, ["prod"], False),
        ({"Bool": {K: True}}, ["true"], True),
        ({"Bool": {K: "true"}}, ["false"], False),
        ({"NumericLessThanEquals": {K: "8"}}, ["8"], True),
        ({"NumericLessThan": {K: 8}}, ["16"], False),
        ({"NumericGreaterThan": {K: "8"}}, ["16"], True),
        ({"NumericNotEquals": {K: "8"}}, ["16"], True),
        ({"DateGreaterThan": {K: "2026-11-01T00:00:00Z"}}, ["2026-11-23T10:00:00+00:00"], True),
        ({"DateLessThan": {K: "2026-11-01"}}, ["2026-11-23T10:00:00+00:00"], False),
        ({"IpAddress": {K: "192.0.2.0/24"}}, ["192.0.2.7"], True),
        ({"NotIpAddress": {K: "192.0.2.0/24"}}, ["192.0.2.7"], False),
        ({"ArnLike": {K: "arn:aws:ec2:*:*:vpc/*"}}, ["arn:aws:ec2:r:1:vpc/vpc-1"], True),
        ({"ArnNotLike": {K: "arn:aws:ec2:*:*:vpc/*"}}, ["arn:aws:ec2:r:1:vpc/vpc-1"], False),
    ],
)
def test_condition_operators_compare_as_in_iam(
    condition: dict[str, Any], values: list[str], holds: bool
) -> None:
    asked = Asked("ec2:RunInstances", ARN, context({K: values}))
    assert decide(parse(document(allow(Condition=condition))), asked).allowed is holds


def test_keys_are_compared_without_case() -> None:
    assert allows(
        allow(Condition={"StringEquals": {"AWS:resourcetag/Site": "prod"}}),
        **{"aws:ResourceTag/site": "prod"},
    )


def test_variables_stand_for_values_of_the_request() -> None:
    own = allow(Condition={"StringEquals": {"aws:ResourceTag/owner": "${aws:username}"}})
    tag = {"aws:ResourceTag/owner": "ann"}
    assert allows(own, aws_username="ann", **tag)
    assert not allows(own, aws_username="bob", **tag)
    # IAM: where a variable has no value, the statement does not apply.
    assert not allows(own, **tag)
    assert allows(allow(Resource=ARN.replace("i-", "${aws:username}-")), aws_username="i")


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (allow(Effect="Maybe"), "Allow or to Deny"),
        (allow(Principal="*"), "Principal"),
        ({"Effect": "Allow", "Resource": "*"}, "Action or NotAction"),
        ({"Effect": "Allow", "Action": "*"}, "Resource or NotResource"),
        (allow(Action="RunInstances"), "no action"),
        (allow(Resource="instance/*"), "no ARN"),
        (allow(Condition={"StringMatches": {K: "x"}}), "no condition operator StringMatches"),
        (allow(Condition={"Null": {K: "maybe"}}), "true or false"),
    ],
)
def test_policy_element_that_the_lab_cannot_evaluate_is_refused(
    statement: dict[str, Any], words: str
) -> None:
    with pytest.raises(Malformed, match=words):
        parse(document(statement))


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"Version": "2012-10-17"}', '{"Version": "2008-10-17", "Statement": [{}]}'],
)
def test_invalid_policy_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        parse(text)


def test_two_statements_of_one_name_are_refused() -> None:
    with pytest.raises(Malformed, match="same Sid"):
        parse(document(allow(Sid="A"), allow(Sid="A")))
