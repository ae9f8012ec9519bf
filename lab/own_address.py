"""An address of its own for one region of the lab's EC2, which can refuse connections alone.

All other regions share the lab's address. SDKs find a region's address by their rules of endpoints,
to which a folder of the user's (`AWS_DATA_PATH`) adds rules, as botocore documents it.
"""

import json
import selectors
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit

_CHUNK = 65536


class OwnAddress:
    """Leads a region's calls to a port of their own, which refuses connections until `open`."""

    def __init__(self, folder: Path, region: str, ec2_url: str) -> None:
        parts = urlsplit(ec2_url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 80)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._port = probe.getsockname()[1]
        self._listener: socket.socket | None = None
        rules = folder / "data" / "ec2" / "2016-11-15" / "endpoint-rule-set-1.json"
        rules.parent.mkdir(parents=True, exist_ok=True)
        rules.write_text(json.dumps(_rules(region, f"http://127.0.0.1:{self._port}")))
        #: What a client needs besides the site's environment.
        self.environment = {"AWS_DATA_PATH": str(folder / "data")}

    def open(self) -> None:
        """Take connections, and pass them on to the lab's EC2."""
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self._port))
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        """Refuse connections; those that there are go on."""
        if self._listener is not None:
            listener, self._listener = self._listener, None
            # Closed alone, it would take one more connection of a thread that waits in accept.
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._target) as server:
            ends: dict[object, socket.socket] = {client: server, server: client}
            with selectors.DefaultSelector() as selector:
                for end in (client, server):
                    selector.register(end, selectors.EVENT_READ)
                while True:
                    for key, _ in selector.select():
                        to = ends[key.fileobj]
                        source = client if to is server else server
                        try:
                            data = source.recv(_CHUNK)
                            if not data:
                                return
                            to.sendall(data)
                        except OSError:
                            return


def _rules(region: str, url: str) -> dict[str, object]:
    """Return rules by which the region is at `url`, and every other at the configured endpoint."""

    def endpoint(where: object) -> dict[str, object]:
        return {"url": where, "properties": {}, "headers": {}}

    def of(built_in: str) -> dict[str, object]:
        return {"builtIn": built_in, "required": False, "documentation": "", "type": "String"}

    def switch(built_in: str) -> dict[str, object]:
        return {**of(built_in), "required": True, "default": False, "type": "Boolean"}

    return {
        "version": "1.0",
        "parameters": {
            "Region": of("AWS::Region"),
            "Endpoint": of("SDK::Endpoint"),
            "UseDualStack": switch("AWS::UseDualStack"),
            "UseFIPS": switch("AWS::UseFIPS"),
        },
        "rules": [
            {
                "conditions": [
                    {"fn": "isSet", "argv": [{"ref": "Region"}]},
                    {"fn": "stringEquals", "argv": [{"ref": "Region"}, region]},
                ],
                "endpoint": endpoint(url),
                "type": "endpoint",
            },
            {
                "conditions": [{"fn": "isSet", "argv": [{"ref": "Endpoint"}]}],
                "endpoint": endpoint({"ref": "Endpoint"}),
                "type": "endpoint",
            },
        ],
    }
