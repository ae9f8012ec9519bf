"""Compare the operations of fedimg's clients with the calls in its source."""

import re
from pathlib import Path

import botocore.session
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
