"""Questions about names are answered to an instance as its VPC's resolver does at EC2."""

import asyncio
import socket
import struct
from pathlib import Path

import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import pytest

from lab.machines.resolver import Resolver, ResolverService

NAME = "ip-127-20-30-40.eu-west-1.compute.internal"
ADDRESS = "169.252.0.15"
RESOLVER = Resolver(NAME, ADDRESS, "169.252.0.0/14", "169.254.169.254")


def asked(name: str, kind: str = "A") -> dns.message.Message:
    """Ask as glibc and systemd-resolved do, with EDNS; return the answer as a client reads it."""
    question = dns.message.make_query(name, kind, use_edns=0, payload=4096)
    wire = RESOLVER.answer(question.to_wire())
    assert wire is not None
    answer = dns.message.from_wire(wire)
    assert question.is_response(answer)
    assert answer.flags & dns.flags.RA
    assert answer.edns == 0
    return answer


def said(name: str, kind: str = "A") -> tuple[str, list[str]]:
    """Return the code of an answer, and its data."""
    answer = asked(name, kind)
    data = [str(item) for rrset in answer.answer for item in rrset]
    return dns.rcode.to_text(answer.rcode()), data


def test_private_name_has_the_instances_address_and_its_address_that_name() -> None:
    assert said(NAME) == ("NOERROR", [ADDRESS])
    assert said("IP-127-20-30-40.EU-west-1.compute.internal.") == ("NOERROR", [ADDRESS])
    assert said("15.0.252.169.in-addr.arpa", "PTR") == ("NOERROR", [f"{NAME}."])
    assert said(NAME, "ANY") == ("NOERROR", [ADDRESS])


def test_name_of_the_metadata_service_is_known() -> None:
    assert said("instance-data.eu-west-1.compute.internal") == ("NOERROR", ["169.254.169.254"])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (NAME, "AAAA"),
        ("15.0.252.169.in-addr.arpa", "A"),
        ("eu-west-1.compute.internal", "A"),
        ("0.252.169.in-addr.arpa", "PTR"),
    ],
)
def test_name_without_such_a_record_is_not_said_to_be_missing(name: str, kind: str) -> None:
    assert said(name, kind) == ("NOERROR", [])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ip-127-20-30-41.eu-west-1.compute.internal", "A"),
        ("www.example.com.eu-west-1.compute.internal", "A"),
        # A host name that is asked about without the domain that DHCP told.
        ("ip-127-20-30-40", "A"),
        ("16.0.252.169.in-addr.arpa", "PTR"),
        ("1.0.0.10.in-addr.arpa", "PTR"),
    ],
)
def test_name_that_nobody_in_the_vpc_has_does_not_exist(name: str, kind: str) -> None:
    assert said(name, kind) == ("NXDOMAIN", [])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("www.example.com", "A"),
        ("8.8.8.8.in-addr.arpa", "PTR"),
        ("ip-127-20-30-40.ec2.internal", "A"),
        (".", "NS"),
    ],
)
def test_the_world_is_out_of_reach(name: str, kind: str) -> None:
    assert said(name, kind) == ("SERVFAIL", [])


def test_what_is_no_question_of_one_name_is_told_so_or_left_alone() -> None:
    notify = dns.message.make_query(NAME, "SOA")
    notify.set_opcode(dns.opcode.NOTIFY)
    none = dns.message.Message()
    codes = []
    for message in (notify, none):
        wire = RESOLVER.answer(message.to_wire())
        assert wire is not None
        codes.append(dns.message.from_wire(wire).rcode())
    assert codes == [dns.rcode.NOTIMP, dns.rcode.FORMERR]
    # An answer to an answer could go on for ever.
    answer = RESOLVER.answer(dns.message.make_query(NAME, "A").to_wire())
    assert answer is not None
    assert RESOLVER.answer(answer) is None
    assert RESOLVER.answer(b"") is None
    assert RESOLVER.answer(dns.message.make_query(NAME, "A").to_wire()[:-3]) is None


def test_datagram_and_stream_are_answered_at_their_sockets(tmp_path: Path) -> None:
    datagrams, stream = tmp_path / "names", tmp_path / "stream"
    question = dns.message.make_query(NAME, "A")
    wire = question.to_wire()

    def ask() -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(datagrams))
            client.sendall(wire)
            assert question.is_response(dns.message.from_wire(client.recv(65535)))
        with socket.socket(socket.AF_UNIX) as client, client.makefile("rb") as answers:
            client.connect(str(stream))
            # Two questions, cut anywhere.
            both = (struct.pack("!H", len(wire)) + wire) * 2
            client.sendall(both[:7])
            client.sendall(both[7:])
            for _ in range(2):
                (size,) = struct.unpack("!H", answers.read(2))
                assert question.is_response(dns.message.from_wire(answers.read(size)))
            client.sendall(struct.pack("!H", 3) + b"no!")
            assert answers.read() == b""

    async def serve() -> None:
        service = ResolverService(RESOLVER, datagrams, stream)
        await service.start()
        await asyncio.to_thread(ask)
        await service.stop()

    asyncio.run(serve())
    assert list(tmp_path.iterdir()) == []
