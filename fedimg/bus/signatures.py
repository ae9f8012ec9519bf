"""Which messages the bus's certificates vouch for: fedmsg's validation, made strict, with reasons.

fedmsg's configuration says who may sign what; fedimg.intake.announcement reads what a message
means.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import fedmsg.crypto
import fedmsg.crypto.utils

from fedimg.bus import revocation

#: What fedmsg says of a message may hold the whole of it.
_LONGEST_REASON = 200


class Fault(StrEnum):
    """What is wrong with a message's signature, in the words that an operator reads."""

    UNSIGNED = "unsigned"
    CERTIFICATE = "certificate not valid, foreign or revoked"
    TAMPERED = "changed after it was signed"
    SIGNER = "signed by somebody who may not send it"
    NO_POLICY = "nobody is named who may send it"


class SignatureRefused(Exception):
    """A message is not believed; `fault` is the kind of reason, the text the whole of it."""

    def __init__(self, fault: Fault, said: str = "") -> None:
        # Part of it is the sender's: no line ends, nothing long.
        told = ascii(said)[1 : _LONGEST_REASON + 1]
        super().__init__(f"{fault}: {told}" if said else str(fault))
        self.fault = fault


class Signatures:
    """Judges messages by fedmsg's own configuration.

    Stricter than fedmsg in three things: a topic for which `routing_policy` names nobody is
    nobody's to send, whether `routing_nitpicky` is set or not; a list of revoked certificates
    counts from the moment it is in its file, where fedmsg reads it once and again after a failure;
    and without such a list of the authority's nobody is believed, where fedmsg takes an empty file
    for none.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = dict(config)
        self._files: dict[str, Any] = {}
        #: What fedmsg has read, and what is wrong with its list of revoked certificates.
        self._loaded: object = None
        self._unlisted = ""
        self._said = _Said()
        crypto = logging.getLogger("fedmsg.crypto")
        crypto.addHandler(self._said)
        # It prints whole messages, and the reason is told with the refusal.
        crypto.propagate = False

    def check(self, message: object) -> None:
        """Raise SignatureRefused unless one who may send the message has signed it as it is."""
        if not isinstance(message, dict):
            raise SignatureRefused(Fault.UNSIGNED)
        if not all(isinstance(message.get(key), str) for key in ("signature", "certificate")):
            raise SignatureRefused(Fault.UNSIGNED)
        topic = message.get("topic")
        policy = self._config.get("routing_policy") or {}
        if not isinstance(topic, str) or not policy.get(topic):
            raise SignatureRefused(
                Fault.NO_POLICY, f"routing_policy has no signer for {topic!r:.100}"
            )
        self._look_at_files()
        self._look_at_lists()
        self._said.last.text = ""
        try:
            valid = fedmsg.crypto.validate(message, **self._config)
        except Exception as error:
            # Whatever is no certificate, no base64 or no PEM makes its libraries raise anything.
            raise SignatureRefused(Fault.CERTIFICATE, repr(error)) from error
        if not valid:
            raise self._refused(self._said.last.text)
        # fedmsg may have read its files anew meanwhile.
        self._look_at_lists()

    def _refused(self, said: str) -> SignatureRefused:
        if "invalid signature" in said:
            return SignatureRefused(Fault.TAMPERED)
        if said.startswith("Authorization"):
            return SignatureRefused(Fault.SIGNER, said)
        return SignatureRefused(Fault.CERTIFICATE, said)

    def _look_at_files(self) -> None:
        places = {key: self._config.get(key) for key in ("ca_cert_location", "crl_location")}
        now = {key: _state(place) for key, place in places.items()}
        if now != self._files:
            self._files = now
            try:
                fedmsg.crypto.utils.load_certificates(*places.values(), invalidate_cache=True)
            except Exception as error:
                raise SignatureRefused(
                    Fault.CERTIFICATE, f"cannot read {places}: {error}"
                ) from error

    def _look_at_lists(self) -> None:
        places = (self._config.get("ca_cert_location"), self._config.get("crl_location"))
        loaded = fedmsg.crypto.utils.load_certificates(*places)
        if loaded is not self._loaded:
            authority, revoked = loaded
            try:
                revocation.lists(revoked or "", authority or "")
                self._unlisted = ""
            except revocation.NoList as error:
                self._unlisted = f"{places[1]}: {error}"
            self._loaded = loaded
        if self._unlisted:
            raise SignatureRefused(Fault.CERTIFICATE, self._unlisted)


class _Said(logging.Handler):
    """Keeps what fedmsg said last, in each thread: its validation itself tells no reason."""

    def __init__(self) -> None:
        super().__init__()
        self.last = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        self.last.text = record.getMessage()


def _state(place: object) -> object:
    """What changes whenever a file does; nothing for what is no file, such as a URL."""
    try:
        found = os.stat(str(place))
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
