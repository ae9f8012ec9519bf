"""The resolver of an instance's VPC: the instance's own name and address, and nothing of the world.

Reference: "DNS attributes for your VPC", Amazon VPC User Guide. Behind Amazon's resolver lies the
internet; behind this one lies none, so it says of the world's names what a resolver without
upstream says.
"""

import asyncio
import contextlib
import ipaddress
import struct
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.reversename
import dns.rrset
from dns.name import Name, from_text, root

#: Where Amazon's resolver is in every VPC, beside the VPC's third address.
LINK_LOCAL = "169.254.169.253"

#: Seconds for which an answer holds, as at Amazon.
_TTL = 60
_MOST_BYTES = 65535
# The largest answer that a datagram is let carry without fragments on any network.
_DATAGRAM_BYTES = 1232
# A client that has connected asks at once.
_SECONDS = 10


class Resolver:
    """Answers questions in DNS's wire format about one instance.

    `name` is the instance's private name with its domain, `address` the address that the name has,
    and `network` the VPC's. `metadata` is the address of the instance metadata service.
    """

    def __init__(self, name: str, address: str, network: str, metadata: str) -> None:
        host = from_text(name)
        self._domain = host.parent()
        self._network = ipaddress.ip_network(network)
        self._records = [
            dns.rrset.from_text(host, _TTL, "IN", "A", address),
            dns.rrset.from_text(
                dns.reversename.from_address(address), _TTL, "IN", "PTR", str(host)
            ),
            dns.rrset.from_text(Name(("instance-data",)) + self._domain, _TTL, "IN", "A", metadata),
        ]

    def answer(self, question: bytes) -> bytes | None:
        """Return the answer to a question; None to bytes that are none."""
        try:
            query = dns.message.from_wire(question)
        except dns.exception.DNSException:
            return None
        if query.flags & dns.flags.QR:
            return None
        answer = dns.message.make_response(
            query, recursion_available=True, our_payload=_DATAGRAM_BYTES
        )
        if query.opcode() != dns.opcode.QUERY:
            answer.set_rcode(dns.rcode.NOTIMP)
        elif len(query.question) != 1:
            answer.set_rcode(dns.rcode.FORMERR)
        else:
            (asked,) = query.question
            found = self._found(asked)
            answer.answer.extend(found)
            if not found:
                answer.set_rcode(self._reason(asked.name))
        return answer.to_wire()

    def _found(self, asked: dns.rrset.RRset) -> list[dns.rrset.RRset]:
        return [
            record
            for record in self._records
            if record.name == asked.name
            and record.rdclass == asked.rdclass
            and asked.rdtype in (record.rdtype, dns.rdatatype.ANY)
        ]

    def _reason(self, name: Name) -> dns.rcode.Rcode:
        """Return the code of an answer that is empty."""
        if name != root and any(record.name.is_subdomain(name) for record in self._records):
            # It exists, with records of another type or names below it.
            return dns.rcode.NOERROR
        # The top of the world's names has no hosts, so that those of one label are known not to be.
        if name.is_subdomain(self._domain) or len(name) == 2 or self._is_nobodys(name):
            return dns.rcode.NXDOMAIN
        return dns.rcode.SERVFAIL

    def _is_nobodys(self, name: Name) -> bool:
        """Return whether a name is that of an address which the world's DNS does not know."""
        try:
            address = ipaddress.ip_address(dns.reversename.to_address(name))
        except (dns.exception.DNSException, ValueError):
            return False
        return address in self._network or not address.is_global


class ResolverService:
    """Answers at Unix sockets, between `start` and `stop`, what relays bring from a machine.

    One question a connection comes to `datagrams`, as the datagram that it was; to `stream` come
    those of DNS over TCP, each behind its length.
    """

    def __init__(self, resolver: Resolver, datagrams: Path, stream: Path) -> None:
        self._resolver = resolver
        self._paths = {datagrams: self._datagram, stream: self._stream}
        self._servers: list[asyncio.Server] = []

    async def start(self) -> None:
        """Listen. Raises OSError."""
        for path, answer in self._paths.items():
            path.unlink(missing_ok=True)
            self._servers.append(await asyncio.start_unix_server(answer, path))

    async def stop(self) -> None:
        """Answer nothing more."""
        for server in self._servers:
            server.close()
        for path in self._paths:
            path.unlink(missing_ok=True)

    async def _datagram(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError, TimeoutError):
            question = await asyncio.wait_for(reader.read(_MOST_BYTES), _SECONDS)
            answer = self._resolver.answer(question)
            if answer is not None:
                writer.write(answer)

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = (OSError, TimeoutError, asyncio.IncompleteReadError)
        with contextlib.closing(writer), contextlib.suppress(*ends):
            while True:
                async with asyncio.timeout(_SECONDS):
                    (size,) = struct.unpack("!H", await reader.readexactly(2))
                    question = await reader.readexactly(size)
                answer = self._resolver.answer(question)
                if answer is None:
                    return
                writer.write(struct.pack("!H", len(answer)) + answer)
