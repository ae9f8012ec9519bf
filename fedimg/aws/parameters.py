"""Read, put and delete parameters of SSM that name AMIs.

PutParameter answers before EC2 has confirmed that the AMI is there: whoever puts a parameter has to
read it until it is right.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

from fedimg.aws.client.clients import Clients
from fedimg.aws.client.errors import code
from fedimg.aws.client.retrying import Current
from fedimg.aws.client.types import Client
from fedimg.aws.client.waiter import Waiter
from fedimg.config import Limits

#: The data type of a parameter that names an AMI.
IMAGE = "aws:ec2:image"
#: The most names of one call.
_AT_ONCE = 10
#: For how long one call is retried, and how long it may take, in seconds.
_OUTAGE_SECONDS, _CALL_SECONDS = 10.0, 10.0


class ParameterStore:
    """The parameters of one region. Each call is retried for ten seconds where AWS throttles it."""

    def __init__(
        self, clients: Clients, region: str, limits: Limits, stop: threading.Event
    ) -> None:
        self._ssm: Client = Current(
            clients,
            lambda: clients.client("ssm", region, attempts=1, seconds=_CALL_SECONDS),
        )
        outage = min(limits.outage, _OUTAGE_SECONDS)
        self._waiter = Waiter(limits.model_copy(update={"outage": outage}), stop)

    def read(self, names: Sequence[str]) -> dict[str, str]:
        """Return the values of those parameters that exist, by name.

        The value of one that is of another type than an AMI's is followed by its type.
        """
        values: dict[str, str] = {}
        for start in range(0, len(names), _AT_ONCE):
            some = list(names[start : start + _AT_ONCE])
            answer: dict[str, Any] = self._waiter.retried(
                partial(self._ssm.get_parameters, Names=some)
            )
            for each in answer["Parameters"]:
                kind = each.get("DataType", "text")
                value = str(each["Value"])
                values[str(each["Name"])] = value if kind == IMAGE else f"{value} ({kind})"
        return values

    def put(self, name: str, ami: str, description: str, *, tier: str, exists: bool) -> None:
        """Have a parameter name an AMI; EC2 confirms that after the answer, or never."""
        self._waiter.retried(
            lambda: self._ssm.put_parameter(
                Name=name,
                Value=ami,
                Type="String",
                DataType=IMAGE,
                Description=description[:1024],
                Tier=tier,
                Overwrite=exists,
            )
        )

    def delete(self, name: str) -> None:
        """Delete a parameter; one that does not exist is no error."""
        try:
            self._waiter.retried(lambda: self._ssm.delete_parameter(Name=name))
        except Exception as error:
            if code(error) != "ParameterNotFound":
                raise
