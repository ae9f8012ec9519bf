"""Bindings of fedora-messaging's configuration against the topics that a site needs."""

import tomllib
from pathlib import Path

import pytest

from fedimg.bus.amqp_bindings import unbound
from fedimg.config import Settings
from fedimg.intake.announcement import BUILD_TOPIC, TASK_TOPIC, topics

PROD = "org.fedoraproject.prod"
SHIPPED = Path(__file__).parent.parent.parent / "fedora-messaging" / "fedimg.toml"


@pytest.mark.parametrize(
    ("key", "delivers"),
    [
        (f"{PROD}.{BUILD_TOPIC}", True),
        (f"{PROD}.buildsys.#", True),
        ("#", True),
        ("*.*.prod.buildsys.*.state.change", True),
        (f"{PROD}.buildsys.*", False),
        (f"org.fedoraproject.stg.{BUILD_TOPIC}", False),
        (f"{PROD}.{TASK_TOPIC}", False),
    ],
)
def test_routing_keys_deliver_as_the_broker_does(key: str, delivers: bool) -> None:
    missing = unbound([BUILD_TOPIC], PROD, [{"routing_keys": [key]}])
    assert missing == ([] if delivers else [f"{PROD}.{BUILD_TOPIC}"])


def test_without_prefix_a_binding_may_have_any() -> None:
    bindings = [{"routing_keys": [f"org.fedoraproject.stg.{BUILD_TOPIC}"]}]
    assert unbound([BUILD_TOPIC], "", bindings) == []
    assert unbound([TASK_TOPIC], "", bindings) == [TASK_TOPIC]


def test_shipped_configuration_binds_what_a_site_needs() -> None:
    shipped = tomllib.loads(SHIPPED.read_text())
    settings = Settings.model_validate({"composes": {"locations": ["https://example.org"]}})
    assert unbound(topics(settings), shipped["topic_prefix"], shipped["bindings"]) == []
    # The kind of mistake that this finds: the prefix changed, the bindings forgotten.
    assert len(unbound(topics(settings), "org.fedoraproject.stg", shipped["bindings"])) == 3
