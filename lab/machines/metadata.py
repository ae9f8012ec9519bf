"""The instance metadata service of one machine, as far as cloud-init and scripts ask it.

Version 2 alone: a question needs a token. Reference: "Instance metadata categories" and "Use the
Instance Metadata Service", Amazon EC2 User Guide.
"""

import json
import re
import secrets
import socketserver
import threading
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from lab.ec2.partitions import domain_of, partition_of
from lab.hang_ups import IgnoresHangUps
from lab.machines import Launch

_VERSION = re.compile(r"latest|\d{4}-\d\d-\d\d|1\.0")
_TOKEN = "X-aws-ec2-metadata-token"
_MOST_SECONDS = 21600


def metadata(launch: Launch, *, name: str, local: str, public: str, mac: str) -> Mapping[str, str]:
    """Return an instance's metadata: texts by their paths, which have no versions."""
    card = f"network/interfaces/macs/{mac}"
    zone = f"{launch.region}a"
    partition = partition_of(launch.region)
    data = {
        "ami-launch-index": "0",
        "hostname": name,
        "instance-id": launch.instance_id,
        "instance-type": launch.instance_type,
        "local-hostname": name,
        "local-ipv4": local,
        "mac": mac,
        "public-ipv4": public,
        f"{card}/device-number": "0",
        f"{card}/local-hostname": name,
        f"{card}/local-ipv4s": local,
        f"{card}/mac": mac,
        f"{card}/public-ipv4s": public,
        "placement/availability-zone": zone,
        "placement/region": launch.region,
        "services/domain": domain_of(partition),
        "services/partition": partition,
    }
    root = next((disk.device_name for disk in launch.disks if disk.root), "")
    data |= {"block-device-mapping/ami": root, "block-device-mapping/root": root}
    if launch.public_key is not None:
        data["public-keys/0/openssh-key"] = launch.public_key
    about = {
        "accountId": "123456789012",
        "architecture": launch.architecture,
        "availabilityZone": zone,
        "instanceId": launch.instance_id,
        "instanceType": launch.instance_type,
        "privateIp": local,
        "region": launch.region,
        "version": "2017-09-30",
    }
    return {
        **{f"meta-data/{path}": text for path, text in data.items()},
        "dynamic/instance-identity/document": json.dumps(about, indent=2),
    }


class MetadataService:
    """Answers at the Unix socket `path` until `close`; who may open that path is whom it trusts."""

    def __init__(self, path: Path, launch: Launch, told: Mapping[str, str]) -> None:
        self._path = path
        path.unlink(missing_ok=True)
        self._server = _Server(path, _Answers(launch, told))
        threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="metadata", daemon=True
        ).start()

    def close(self) -> None:
        """Answer nothing more."""
        self._server.shutdown()
        self._server.server_close()
        self._path.unlink(missing_ok=True)


class _Answers:
    def __init__(self, launch: Launch, told: Mapping[str, str]) -> None:
        self._told = told
        self._user_data = launch.user_data
        self._key_name = launch.key_name or "key"
        self._tokens: set[str] = set()

    def token(self, seconds: str | None) -> str | None:
        if seconds is None or not seconds.isdigit() or not 0 < int(seconds) <= _MOST_SECONDS:
            return None
        self._tokens.add(token := secrets.token_urlsafe(32))
        return token

    def admits(self, token: str | None) -> bool:
        return token in self._tokens

    def get(self, path: str) -> bytes | None:
        """Return the text at a path; None when there is none."""
        version, _, rest = path.strip("/").partition("/")
        if not version:
            return b"latest"
        if not _VERSION.fullmatch(version):
            return None
        if rest == "user-data":
            return self._user_data or None
        if rest in self._told:
            return self._told[rest].encode()
        if rest == "meta-data/public-keys" and f"{rest}/0/openssh-key" in self._told:
            return f"0={self._key_name}".encode()
        under = [p.removeprefix(f"{rest}/") for p in self._told if p.startswith(f"{rest}/")]
        names = {f"{name}{slash}" for name, slash, _ in (p.partition("/") for p in under)}
        return "\n".join(sorted(names)).encode() if names else None


class _Server(IgnoresHangUps, socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 32

    def __init__(self, path: Path, answers: _Answers) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                asked = self.headers.get(f"{_TOKEN}-ttl-seconds")
                token = answers.token(asked) if self.path == "/latest/api/token" else None
                if token is None:
                    self._answer(HTTPStatus.BAD_REQUEST, b"")
                else:
                    self._answer(HTTPStatus.OK, token.encode())

            def do_GET(self) -> None:
                if not answers.admits(self.headers.get(_TOKEN)):
                    self._answer(HTTPStatus.UNAUTHORIZED, b"")
                    return
                found = answers.get(self.path.partition("?")[0])
                if found is None:
                    self._answer(HTTPStatus.NOT_FOUND, b"")
                else:
                    self._answer(HTTPStatus.OK, found)

            def _answer(self, status: HTTPStatus, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "text/plain")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Log nothing: the terminal belongs to the site's user."""

        super().__init__(str(path), Handler)
