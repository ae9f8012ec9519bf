"""Messages that a bus refuses: out of the way of the others, until an operator decides."""

from __future__ import annotations

from fedimg.store.parked import Parked
from fedimg.store.store import Store


def keys(store: Store, bus: str) -> list[str]:
    return [row.key for row in store.unannounced(bus=bus)]


def put(store: Store) -> list[int]:
    for key in ("a", "b", "c"):
        store.announce(key, "image.upload", {"number": key})
    return [row.id for row in store.unannounced()]


def test_parked_message_waits_for_nobody_and_is_sent_again_on_demand(store: Store) -> None:
    first, *_ = put(store)
    parked = Parked(store)
    for _ in range(2):
        parked.park(first, "fedora-messaging", "not allowed")
    assert keys(store, "fedora-messaging") == ["b", "c"]
    assert keys(store, "fedmsg") == ["a", "b", "c"]
    (message,) = parked.all()
    assert (message.id, message.bus, message.key) == (first, "fedora-messaging", "a")
    assert (message.topic, message.body, message.reason) == (
        "image.upload",
        {"number": "a"},
        "not allowed",
    )
    assert parked.count() == 1
    count, _ = store.waiting_messages() or (0, 0)
    assert count == 2
    parked.resend([first])
    assert keys(store, "fedora-messaging") == ["a", "b", "c"]
    assert parked.count() == 0


def test_dropped_message_counts_as_sent_to_the_bus_that_refuses_it(store: Store) -> None:
    first, second, _ = put(store)
    parked = Parked(store)
    buses = ["fedmsg", "fedora-messaging"]
    for message in (first, second):
        parked.park(message, "fedora-messaging", "not allowed")
    store.delivered([first], "fedmsg", buses)
    parked.drop(parked.all(), buses)
    assert parked.all() == []
    assert keys(store, "fedora-messaging") == ["c"]
    # Of two buses, the other one still has to take the second.
    assert keys(store, "fedmsg") == ["b", "c"]
    assert [row.key for row in store.unannounced()] == ["b", "c"]
