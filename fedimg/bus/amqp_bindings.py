"""Compare the bindings of fedora-messaging's configuration with the topics that a site needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def unbound(topics: Iterable[str], prefix: str, bindings: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return those topics, with the prefix, that no binding delivers.

    `topics` come without `prefix`; without a prefix a binding may have any. `bindings` are
    fedora-messaging's, each with its `routing_keys`.
    """
    keys = [str(key) for binding in bindings for key in binding.get("routing_keys", ())]
    wanted = {topic: f"{prefix}.{topic}" if prefix else topic for topic in topics}
    return [
        full
        for topic, full in wanted.items()
        if not any(_delivers(key, full) or (not prefix and key.endswith(topic)) for key in keys)
    ]


def _delivers(key: str, topic: str) -> bool:
    """Return whether a routing key delivers a topic: `*` is one word, `#` any number of words."""
    return _match(key.split("."), topic.split("."))


def _match(pattern: Sequence[str], words: Sequence[str]) -> bool:
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(_match(pattern[1:], words[count:]) for count in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and _match(pattern[1:], words[1:])
