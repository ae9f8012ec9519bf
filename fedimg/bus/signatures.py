"""Validate the signatures of fedmsg messages, more strictly than fedmsg, and with reasons.

fedmsg's configuration says who may sign which topic; fedimg.intake.announcement interprets
messages.
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
from fedimg.untrusted.quoting import quoted

#: Most characters of a reason; fedmsg's own reasons may quote the whole message.
_LONGEST_REASON = 200


class Fault(StrEnum):
    """The kinds of faults of a message's signature; the database counts them by these texts."""

    UNSIGNED = "unsigned"
    CERTIFICATE = "certificate not valid, foreign or revoked"
    TAMPERED = "changed after it was signed"
    SIGNER = "signed by somebody who may not send it"
    NO_POLICY = "no signer configured for its topic"


class SignatureRefused(Exception):
    """A message is rejected because of its signature; `fault` is the kind of fault."""

    def __init__(self, fault: Fault, detail: str = "") -> None:
        # The detail may quote the sender: it becomes one line of bounded length.
        quoted = ascii(detail)[1:-1][:_LONGEST_REASON]
        super().__init__(f"{fault}: {quoted}" if detail else str(fault))
        self.fault = fault


class Signatures:
    """Validates messages by fedmsg's own configuration.

    It is stricter than fedmsg in three ways:
    A topic for which `routing_policy` names no signer is rejected, with or without
    `routing_nitpicky`.
    A list of revoked certificates is read as soon as its file changes; fedmsg reads it once, and
    again after a failure.
    Without a valid list of the authority, all messages are rejected; fedmsg accepts an empty file.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = dict(config)
        self._files: dict[str, Any] = {}
        #: The files that fedmsg has read, and what is wrong with its list of revoked certificates.
        self._loaded: object = None
        self._crl_fault = ""
        self._log_capture = _LogCapture()
        crypto = logging.getLogger("fedmsg.crypto")
        crypto.addHandler(self._log_capture)
        # This logger prints whole messages; the reason is part of SignatureRefused.
        crypto.propagate = False

    def verify(self, message: object) -> None:
        """Raise SignatureRefused unless a permitted signer has signed the message unchanged."""
        if not isinstance(message, dict):
            raise SignatureRefused(Fault.UNSIGNED)
        if not all(isinstance(message.get(key), str) for key in ("signature", "certificate")):
            raise SignatureRefused(Fault.UNSIGNED)
        topic = message.get("topic")
        policy = self._config.get("routing_policy") or {}
        if not isinstance(topic, str) or not policy.get(topic):
            raise SignatureRefused(
                Fault.NO_POLICY, f"routing_policy names no signer for {quoted(topic, 100)}"
            )
        self._reload_files()
        self._check_revocation_lists()
        self._log_capture.last.text = ""
        try:
            valid = fedmsg.crypto.validate(message, **self._config)
        except Exception as error:
            # The libraries raise any kind of error for invalid certificates, base64 or PEM.
            raise SignatureRefused(
                Fault.CERTIFICATE, f"cannot read it: {str(error) or type(error).__name__}"
            ) from error
        if not valid:
            raise self._refused(self._log_capture.last.text)
        # fedmsg may have read its files again meanwhile.
        self._check_revocation_lists()

    def _refused(self, reason: str) -> SignatureRefused:
        if "invalid signature" in reason:
            return SignatureRefused(Fault.TAMPERED)
        if reason.startswith("Authorization"):
            return SignatureRefused(Fault.SIGNER, reason)
        return SignatureRefused(Fault.CERTIFICATE, reason)

    def _reload_files(self) -> None:
        paths = {key: self._config.get(key) for key in ("ca_cert_location", "crl_location")}
        now = {key: _file_state(path) for key, path in paths.items()}
        if now != self._files:
            self._files = now
            try:
                fedmsg.crypto.utils.load_certificates(*paths.values(), invalidate_cache=True)
            except Exception as error:
                raise SignatureRefused(
                    Fault.CERTIFICATE,
                    "cannot read ca_cert_location or crl_location of fedmsg's configuration: "
                    f"{error}",
                ) from error

    def _check_revocation_lists(self) -> None:
        paths = (self._config.get("ca_cert_location"), self._config.get("crl_location"))
        loaded = fedmsg.crypto.utils.load_certificates(*paths)
        if loaded is not self._loaded:
            authority, revoked = loaded
            try:
                revocation.lists(revoked or "", authority or "")
                self._crl_fault = ""
            except revocation.NoList as error:
                self._crl_fault = f"{paths[1]}: {error}"
            self._loaded = loaded
        if self._crl_fault:
            raise SignatureRefused(Fault.CERTIFICATE, self._crl_fault)


class _LogCapture(logging.Handler):
    """Keeps fedmsg's last log line of each thread: its validation returns no reason."""

    def __init__(self) -> None:
        super().__init__()
        self.last = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        self.last.text = record.getMessage()


def _file_state(path: object) -> object:
    """Return a value that changes whenever the file does; None when it is no file but a URL,
    say.
    """
    try:
        status = os.stat(str(path))
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
