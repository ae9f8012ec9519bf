"""An EBS that accepts blocks as fast as it can and keeps nothing: `python -m bench.sink`.

It prints its address, then the number of bytes it was sent whenever it is asked for `/sent`.
"""

import asyncio
import json
import re

#: Larger than a block and its headers: a body is waited for whole.
_BUFFER = 4 * 1024 * 1024
_CREATED = b"<CreateTagsResponse><return>true</return></CreateTagsResponse>"


class Sink:
    """The requests that it got, and its answers."""

    def __init__(self) -> None:
        self.sent = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)\ncontent-length: *(\d+)", head)
                body = await reader.readexactly(int(length[1]) if length else 0)
                method, path, _ = head.split(b" ", 2)
                if path == b"/sent":
                    self._answer(writer, str(self.sent).encode())
                    continue
                self.sent += len(head) + len(body)
                checksum = re.search(rb"(?i)\nx-amz-checksum: *(\S+)", head)
                if method == b"PUT" and checksum:
                    told = b"x-amz-Checksum: %s\r\nx-amz-Checksum-Algorithm: SHA256\r\n"
                    self._answer(writer, b"", told % checksum[1])
                elif path == b"/snapshots":
                    told_of = {"SnapshotId": "snap-0123456789abcdef0", "BlockSize": 524288}
                    self._answer(writer, json.dumps(told_of).encode())
                elif path.startswith(b"/snapshots/completion/"):
                    self._answer(writer, b'{"Status": "completed"}')
                else:
                    self._answer(writer, _CREATED)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def _answer(self, writer: asyncio.StreamWriter, body: bytes, headers: bytes = b"") -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n" % (headers, len(body)))
        writer.write(body)


async def main() -> None:
    """Serve until the process is ended."""
    server = await asyncio.start_server(Sink().serve, "127.0.0.1", 0, limit=_BUFFER)
    port = server.sockets[0].getsockname()[1]
    print(f"http://127.0.0.1:{port}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
