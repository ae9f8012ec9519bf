"""`fedimg outbox`: what is parked, and what becomes of it."""

import json

from fedimg.store.parked import Parked
from fedimg.store.store import Store
from tests.cli.conftest import Run


def park(store: Store, *keys: str) -> list[int]:
    """Park messages on fedmsg; return their numbers."""
    for key in keys:
        store.announce(key, "image.upload", {"key": key})
    numbers = [row.id for row in store.unannounced() if row.key in keys]
    for number in numbers:
        Parked(store).park(number, "fedmsg", "not allowed")
    return numbers


def test_parked_messages_are_listed_with_the_reason(run: Run, store: Store) -> None:
    assert "no message is parked" in run("outbox").stderr
    (number,) = park(store, "a")
    line = run("outbox").stdout.splitlines()[-1]
    assert line.split()[:3] == [str(number), "fedmsg", "image.upload"]
    assert line.endswith("not allowed")
    (told,) = json.loads(run("outbox", "--json").stdout)
    assert (told["id"], told["body"], told["became"]) == (number, {"key": "a"}, "parked")
    assert "1 messages are refused by a bus" in run("status").stderr


def test_message_is_sent_again_or_dropped_by_its_number(run: Run, store: Store) -> None:
    first, second, third = park(store, "a", "b", "c")
    (again, dropped) = json.loads(
        run("outbox", "--resend", str(first), "--drop", str(second), "--json").stdout
    )
    assert (again["became"], dropped["became"]) == ("sent again", "dropped")
    assert [row.key for row in store.unannounced(bus="fedmsg")] == ["a"]
    assert [each.id for each in Parked(store).all()] == [third]
    assert run("outbox", "--resend", "all").exit_code == 0
    assert Parked(store).all() == []
    assert [row.key for row in store.unannounced(bus="fedmsg")] == ["a", "c"]


def test_unknown_number_and_contradiction_change_nothing(run: Run, store: Store) -> None:
    (number,) = park(store, "a")
    unknown = run("outbox", "--resend", "999")
    assert (unknown.exit_code, 'no message "999" is parked' in unknown.stderr) == (3, True)
    both = run("outbox", "--resend", "all", "--drop", str(number))
    assert (both.exit_code, "both sent again and dropped" in both.stderr) == (2, True)
    assert len(Parked(store).all()) == 1
