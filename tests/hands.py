"""EC2's clients for what tests do by hand, and fedimg never does."""

import boto3

from fedimg.aws.client.clients import Clients


class Hands(Clients):
    """As fedimg's own clients, with all of EC2's operations."""

    def __init__(self) -> None:
        super().__init__()
        self._session = boto3.session.Session()
