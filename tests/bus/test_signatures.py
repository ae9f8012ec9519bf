"""KojiConsumer believes signed messages only: a real fedmsg-hub, real certificates.

Follows fedimg/bus/revocation.py, fedimg/cli/check_bus.py, fedimg/store/rejections.py.
"""

import base64
import copy
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fedmsg.crypto
import fedmsg.encoding
import pytest
import zmq
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fedimg.bus.signatures import Fault, SignatureRefused, Signatures
from fedimg.cli import check_bus
from fedimg.config import Settings
from fedimg.diagnostics import Status
from fedimg.intake.announcement import BUILD_TOPIC, TASK_TOPIC
from fedimg.store.store import Store
from lab.bus import Bus
from lab.certificates import Authority
from tests.hub_process import INSTALLED, PROBE, HubProcess, build_message, task_message, wait_until

PREFIX = "org.fedoraproject.dev."
BUILD = PREFIX + BUILD_TOPIC
TOPICS = (BUILD_TOPIC, TASK_TOPIC)
Sign = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Bus:
    bus = Bus(tmp_path_factory.mktemp("bus"), installed=[INSTALLED])
    # Issued by the same authority, for services that may send something else or nothing.
    for name in ("wiki", "koji-old"):
        bus.authority.issue(name)
    # What a site says for itself, in a file that comes after fedimg.py.
    (bus.folder / "site.py").write_text(
        f"config = {{'routing_policy': {{{BUILD!r}: ['koji', 'koji-old']}}}}\n"
    )
    return bus


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Somebody else's authority, which calls one of its services koji."""
    authority = Authority(tmp_path_factory.mktemp("foreign"))
    authority.issue("koji")
    return authority


def signed(
    folder: Path, name: str, number: object = 7, topic: str = BUILD, **more: Any
) -> dict[str, Any]:
    message = build_message(number) if topic == BUILD else task_message(number)
    envelope = {"topic": topic, "msg": message, "timestamp": 1, "msg_id": "2026-1", "i": 1, **more}
    result: dict[str, Any] = fedmsg.crypto.sign(envelope, ssldir=str(folder), certname=name)
    return result


@pytest.fixture
def sign(bus: Bus) -> Sign:
    return lambda name="koji", *given, **more: signed(bus.authority.folder, name, *given, **more)


def fault(signatures: Signatures, message: object) -> Fault | None:
    try:
        signatures.verify(copy.deepcopy(message))
    except SignatureRefused as refused:
        return refused.fault
    return None


def test_only_messages_that_koji_signed_are_accepted(
    bus: Bus, sign: Sign, foreign: Authority
) -> None:
    signatures = Signatures(bus.config())
    good = sign()
    assert fault(signatures, good) is None
    for message, expected in [
        ({k: v for k, v in good.items() if k != "signature"}, Fault.UNSIGNED),
        ({k: v for k, v in good.items() if k != "certificate"}, Fault.UNSIGNED),
        (good | {"signature": None}, Fault.UNSIGNED),
        (good | {"msg": build_message(8)}, Fault.TAMPERED),
        (good | {"signature": sign("koji", 8)["signature"]}, Fault.TAMPERED),
        (good | {"extra": "added"}, Fault.TAMPERED),
        (sign("wiki"), Fault.SIGNER),
        (sign("fedimg"), Fault.SIGNER),
        (sign("koji", topic=BUILD + ".else"), Fault.NO_POLICY),
        (signed(foreign.folder, "koji"), Fault.CERTIFICATE),
        (good | {"certificate": "AAAA"}, Fault.CERTIFICATE),
        (good | {"certificate": "no base64 \x00"}, Fault.CERTIFICATE),
        (good | {"crypto": "gpg"}, Fault.CERTIFICATE),
        (good | {"crypto": ["x509"]}, Fault.CERTIFICATE),
        ("text", Fault.UNSIGNED),
        (None, Fault.UNSIGNED),
        ([good], Fault.UNSIGNED),
        (good | {"topic": [BUILD]}, Fault.NO_POLICY),
    ]:
        assert fault(signatures, message) is expected, message


def test_topic_that_nobody_may_send_is_refused_from_everybody(bus: Bus, sign: Sign) -> None:
    config = bus.config()
    shipped: dict[str, Any] = {"__file__": str(INSTALLED)}
    exec(compile(INSTALLED.read_text(), INSTALLED, "exec"), shipped)
    config["routing_policy"] = shipped["config"]["routing_policy"]
    assert fault(Signatures(config), sign()) is Fault.NO_POLICY


def test_revoked_certificate_is_refused_from_then_on(tmp_path: Path) -> None:
    bus = Bus(tmp_path)
    signatures = Signatures(bus.config())
    message = signed(bus.authority.folder, "koji")
    assert fault(signatures, message) is None
    bus.authority.revoke("koji")
    assert fault(signatures, message) is Fault.CERTIFICATE
    bus.authority.crl.unlink()
    assert fault(signatures, message) is Fault.CERTIFICATE


@pytest.mark.parametrize("what", ["nothing", "no list", "another's list", "half a list"])
def test_without_a_revocation_list_every_message_is_refused(
    tmp_path: Path, foreign: Authority, what: str
) -> None:
    bus = Bus(tmp_path)
    good = bus.authority.crl.read_text()
    bus.authority.crl.write_text(
        {
            "nothing": "",
            "no list": bus.authority.certificate.read_text(),
            "another's list": foreign.crl.read_text(),
            "half a list": good.replace("-----END", "AAAA\n-----END"),
        }[what]
    )
    signatures = Signatures(bus.config())
    message = signed(bus.authority.folder, "koji")
    assert fault(signatures, message) is Fault.CERTIFICATE
    # The second one finds what the first has read.
    assert fault(signatures, message) is Fault.CERTIFICATE
    bus.authority.crl.write_text(good)
    assert fault(signatures, message) is None


def test_check_reports_when_the_revocation_list_has_to_be_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = Bus(tmp_path)
    path = bus.state / "checked.py"
    path.write_text(f"config = {bus.config()!r}\n")
    monkeypatch.setenv("FEDMSG_CONFIG", str(path))

    def found() -> tuple[Status, str]:
        (one,) = (each for each in check_bus.bus(TOPICS) if each.name == "bus, revocations")
        return one.status, one.text

    assert found()[0] is Status.OK
    for days, expected in ((30, Status.OK), (3, Status.WARNING), (-0.5, Status.PROBLEM)):
        bus.authority.renew(timedelta(days=days))
        status, text = found()
        assert status is expected
        assert f"{datetime.now(UTC) + timedelta(days=days):%Y-%m-%d}" in text
    bus.authority.crl.write_text("")
    status, text = found()
    assert (status, "no list" in text) == (Status.PROBLEM, True)


def test_with_an_expired_revocation_list_every_message_is_refused(tmp_path: Path) -> None:
    bus = Bus(tmp_path)
    signatures = Signatures(bus.config())
    message = signed(bus.authority.folder, "koji")
    bus.authority.renew(timedelta(hours=-1))
    assert fault(signatures, message) is Fault.CERTIFICATE
    bus.authority.renew(timedelta(hours=1))
    assert fault(signatures, message) is None


def test_elliptic_curve_certificate_is_refused(tmp_path: Path) -> None:
    """The authority has issued the certificate, and the signature is right."""
    bus = Bus(tmp_path)
    bus.authority.issue_tls("koji-curve")
    config = bus.config()
    config["routing_policy"] = {BUILD: ["koji-curve", "koji"]}
    signatures = Signatures(config)
    assert fault(signatures, signed(bus.authority.folder, "koji")) is None
    message = signed(bus.authority.folder, "koji")
    content = {k: v for k, v in message.items() if k not in ("signature", "certificate")}
    key = load_pem_private_key((bus.authority.folder / "koji-curve.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    said = fedmsg.encoding.dumps(fedmsg.crypto.strip_credentials(content)).encode()
    certificate = (bus.authority.folder / "koji-curve.crt").read_bytes()
    message |= {
        "signature": base64.b64encode(key.sign(said, ec.ECDSA(hashes.SHA1()))).decode(),
        "certificate": base64.b64encode(certificate).decode(),
    }
    assert fault(signatures, message) is Fault.CERTIFICATE


def test_reason_holds_nothing_long_and_no_line_ends() -> None:
    text = str(SignatureRefused(Fault.SIGNER, "forged\nWARNING: all is well" + "x" * 100_000))
    assert "\n" not in text
    assert len(text) < 300


@pytest.fixture
def hub(processes: None, bus: Bus, tmp_path: Path) -> Iterator[HubProcess]:
    bus.start_relay()
    hub = HubProcess(bus, tmp_path)
    yield hub
    if hub.process is not None and hub.process.poll() is None:
        hub.process.kill()
        hub.process.wait()
    bus.close()


@pytest.mark.process
def test_hub_accepts_only_signed_messages_and_counts_the_others(
    bus: Bus, hub: HubProcess, sign: Sign, foreign: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = zmq.Context()
    sender = context.socket(zmq.PUB)
    sender.connect(bus.inbound)

    def send(message: Any, topic: str = BUILD) -> None:
        text = message if isinstance(message, bytes) else json.dumps(message).encode()
        sender.send_multipart([topic.encode(), text])

    try:
        hub.start_listening(lambda: send(sign("koji", PROBE)))
        unsigned = {k: v for k, v in sign("koji", 1).items() if k not in ("signature", "crypto")}
        send(unsigned)
        send(b"\xff\xfe no text, and no JSON")
        send(sign("koji", 2) | {"msg": build_message(3)})
        send(sign("wiki", 4))
        send(signed(foreign.folder, "koji", 5))
        # Signed for one topic, sent on the other.
        send(sign("koji", 6), topic=PREFIX + TASK_TOPIC)
        send(sign("koji-old", 10))
        wait_until(hub.entries, 240)
        bus.authority.revoke("koji-old")
        send(sign("koji-old", 11))
        send(sign("koji", 12))
        wait_until(lambda: len(hub.entries()) > 1, 240)
        time.sleep(0.5)
        assert [entry for entry, *_ in hub.entries()] == ["build:10", "build:12"]
    finally:
        context.destroy(linger=0)

    store = Store(hub.database.parent)
    try:
        wait_until(lambda: sum(row.count for row in store.rejected(0)) == 6, 240)
        assert {row.fault: row.count for row in store.rejected(0)} == {
            Fault.UNSIGNED: 1,
            Fault.TAMPERED: 1,
            Fault.SIGNER: 2,
            Fault.CERTIFICATE: 2,
        }
        assert store.rejected(time.time() + 60) == []
    finally:
        store.close()
    assert f'rejected a message on "{BUILD}": unsigned' in hub.log
    assert "revoked" in hub.log
    # Where an operator sees it.
    (found,) = check_bus.rejected_messages(Settings(state_directory=hub.database.parent))
    assert found.status is Status.WARNING
    assert "1 unsigned" in found.text


def test_check_reports_whose_messages_the_hub_accepts(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(**changes: Any) -> tuple[Status, str]:
        path = bus.state / "checked.py"
        path.write_text(f"config = {bus.config() | changes!r}\n")
        monkeypatch.setenv("FEDMSG_CONFIG", str(path))
        (one,) = (each for each in check_bus.bus(TOPICS) if each.name == "bus, signatures")
        return one.status, one.text

    assert found() == (Status.OK, "only messages signed by koji, koji-old are accepted")
    off, text = found(validate_signatures=False)
    assert (off, "validate_signatures" in text) == (Status.WARNING, True)
    nobody, text = found(routing_policy={BUILD: ["koji"]})
    assert (nobody, TASK_TOPIC in text, BUILD_TOPIC in text) == (Status.PROBLEM, True, False)
    missing, text = found(crl_location="/nowhere/crl.pem")
    assert (missing, "/nowhere/crl.pem" in text) == (Status.PROBLEM, True)
