"""Policies of KMS keys, and what they allow an account of the audience."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fedimg.aws.key_policy import TO_USE, lacking

ACCOUNT = "222222222222"
ROOT = f"arn:aws:iam::{ACCOUNT}:root"
ALL = ["kms:DescribeKey", "kms:CreateGrant", "kms:Decrypt", "kms:ReEncrypt*"]


def statement(principal: Any, actions: Any, **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Principal": principal, "Action": actions, "Resource": "*", **more}


OWN = statement({"AWS": "arn:aws:iam::111111111111:root"}, "kms:*")


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        ([OWN], list(TO_USE)),
        ([OWN, statement({"AWS": ROOT}, ALL)], []),
        ([OWN, statement({"AWS": ["x", ACCOUNT]}, "kms:*")], []),
        ([statement("*", "KMS:*")], []),
        ([OWN, statement({"AWS": ROOT}, ALL[:1]), statement({"AWS": ROOT}, ALL[1:])], []),
        ([OWN, statement({"AWS": ROOT}, ALL[:3])], ["kms:ReEncryptFrom", "kms:ReEncryptTo"]),
        ([OWN, statement({"AWS": f"arn:aws:iam::{ACCOUNT}:user/one"}, ALL)], list(TO_USE)),
        ([OWN, statement({"AWS": "*"}, ALL, Condition={"StringEquals": {}})], None),
        ([statement({"AWS": ROOT}, ALL), statement("*", "kms:*", Effect="Deny")], None),
        ([{"Effect": "Allow", "NotPrincipal": {"AWS": "x"}, "Action": "kms:*"}], None),
        ([{"Effect": "Allow", "Principal": {"AWS": ROOT}, "NotAction": "kms:Encrypt"}], None),
        ([OWN, statement({"Service": "x.amazonaws.com"}, ALL)], list(TO_USE)),
    ],
)
def test_what_a_policy_does_not_allow_an_account(
    statements: list[dict[str, Any]], expected: list[str] | None
) -> None:
    assert lacking(json.dumps({"Statement": statements}), ACCOUNT) == expected


def test_only_statement_need_be_in_no_list() -> None:
    assert lacking(json.dumps({"Statement": statement({"AWS": ROOT}, ALL)}), ACCOUNT) == []
