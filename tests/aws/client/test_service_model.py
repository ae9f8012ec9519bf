"""Compare the operations of fedimg's clients with the calls in its source."""

import re
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import pytest
from botocore import xform_name

import fedimg
from fedimg.aws.client.clients import Clients
from fedimg.aws.client.service_model import OPERATIONS

SOURCE = Path(fedimg.__file__).parent


def test_operations_are_those_that_the_source_calls() -> None:
    model = botocore.session.get_session().get_service_model("ec2")
    known = {xform_name(name): name for name in model.operation_names}
    texts = [file.read_text() for file in SOURCE.rglob("*.py")]
    # Of a client, or named for a paginator or a kind of thing.
    words = {word for text in texts for word in re.findall(r"[.\"]([a-z]+_[a-z_]+)[(\"]", text)}
    assert {known[word] for word in words & set(known)} == OPERATIONS


def test_other_services_are_whole(account) -> None:
    client = account.clients.client("ebs", "us-east-1")
    assert callable(client.list_snapshot_blocks)


def test_settings_of_botocores_search_path_are_kept() -> None:
    usual = botocore.session.get_session().get_component("data_loader").search_paths
    ours = Clients()._session._session.get_component("data_loader").search_paths
    assert set(usual) <= set(ours)


def test_endpoints_are_kept_of_all_services_that_the_source_calls() -> None:
    texts = [file.read_text() for file in SOURCE.rglob("*.py")]
    called = re.compile(r"(?:\bclient|_client|has_service)\(\s*\"([a-z0-9-]+)\"")
    services = {name for text in texts for name in called.findall(text)}
    assert {"ebs", "rbin", "service-quotas", "sts"} <= services
    clients, whole = Clients(), boto3.session.Session()
    for service in sorted(services | {"sso", "sso-oidc"}):
        for partition in ("aws", "aws-cn", "aws-us-gov"):
            ours = clients._session.get_available_regions(service, partition_name=partition)
            assert ours == whole.get_available_regions(service, partition_name=partition), service


@pytest.mark.parametrize("service", ["ec2", "ssm", "kms"])
def test_what_is_left_of_a_model_is_what_calls_and_answers_are_made_of(service: str) -> None:
    whole = botocore.session.get_session().get_service_model(service)
    few = Clients().client(service, "us-east-1").meta.service_model

    def form(shape: Any, seen: tuple[str, ...] = ()) -> Any:
        """Return a shape with all that it is made of."""
        if shape is None or shape.name in seen:
            return None
        inner = {"structure": "members", "list": "member", "map": "value"}.get(shape.type_name, "")
        parts = getattr(shape, inner, {})
        parts = parts if isinstance(parts, dict) else {"": parts}
        seen = (*seen, shape.name)
        made_of = {name: form(part, seen) for name, part in parts.items()}
        return shape.name, shape.type_name, shape.serialization, shape.metadata, made_of

    assert few.operation_names
    for name in few.operation_names:
        ours, theirs = few.operation_model(name), whole.operation_model(name)
        assert form(ours.input_shape) == form(theirs.input_shape)
        assert form(ours.output_shape) == form(theirs.output_shape)
        assert ours.http == theirs.http


def test_sessions_share_what_was_read_of_botocores_files() -> None:
    first, second = (Clients().client("ec2", "us-east-1").meta for _ in range(2))
    models = [each.service_model._service_description["shapes"] for each in (first, second)]
    assert models[0] is models[1]
    assert len(models[0]) < 1000
