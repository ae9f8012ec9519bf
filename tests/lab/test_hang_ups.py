import http.client
import socket
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lab.hang_ups import IgnoresHangUps

#: SO_LINGER for a socket whose close resets its connection.
RESET = struct.pack("ii", 1, 0)


class Server(IgnoresHangUps, ThreadingHTTPServer):
    pass


class Fails(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        raise LookupError("a fault of the server's own")


def reset_in_mid_request(port: int) -> None:
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(b"GET / HT")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    client.close()


def failing_request(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/")
    with pytest.raises(http.client.RemoteDisconnected):
        connection.getresponse()
    connection.close()


@pytest.mark.parametrize(
    ("client", "printed"), [(reset_in_mid_request, False), (failing_request, True)]
)
def test_fault_of_the_server_is_printed_and_no_client_that_went_away(
    client: Callable[[int], None], printed: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    ended = threading.Event()

    class Told(Server):
        def shutdown_request(self, request: object) -> None:
            # What is printed about a request is printed before this.
            super().shutdown_request(request)  # type: ignore[arg-type]
            ended.set()

    with Told(("127.0.0.1", 0), Fails) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            client(server.server_port)
            assert ended.wait(240)
        finally:
            server.shutdown()
            thread.join()
    assert ("Traceback" in capfd.readouterr().err) == printed
