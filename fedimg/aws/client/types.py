"""What a client of AWS is to mypy."""

from typing import Any

#: boto3 builds a client's methods at run time; no static type tells them.
Client = Any
