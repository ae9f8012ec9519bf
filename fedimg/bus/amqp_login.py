"""Log in to the AMQP broker that fedora-messaging's configuration names, as a test."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pika
import pika.exceptions

from fedimg.bus.amqp_publisher import configuration
from fedimg.bus.publisher import BusError
from fedimg.untrusted.failures import reason

#: The errors by which pika reports that the broker rejects our credentials.
_LOGIN_ERRORS = (
    pika.exceptions.AuthenticationError,
    pika.exceptions.ProbableAccessDeniedError,
    pika.exceptions.ProbableAuthenticationError,
)


def log_in(seconds: float) -> str:
    """Connect as fedora-messaging does, look up the exchange, and disconnect.

    Returns the broker's host:port. Each step takes up to `seconds`. Raises BusError.
    """
    settings = configuration()
    exchange = settings["publish_exchange"]
    with connected(settings, seconds) as (connection, broker):
        try:
            connection.channel().exchange_declare(exchange, passive=True)
        except pika.exceptions.ChannelClosedByBroker as error:
            raise BusError(
                f"{broker}: cannot use the exchange {exchange}, publish_exchange in "
                f"fedora-messaging's configuration: {error.reply_text}"
            ) from error
    return broker


@contextmanager
def connected(
    settings: Mapping[str, Any], seconds: float
) -> Iterator[tuple[pika.BlockingConnection, str]]:
    """Connect as fedora-messaging's `settings` say; yield the connection and the broker's
    host:port.

    Each step of connecting takes up to `seconds`; the heartbeat finds a broker that falls silent
    later. Raises BusError.
    """
    try:
        parameters = pika.URLParameters(settings["amqp_url"])
    except Exception as error:
        # pika raises any kind of error here. The URL may hold a password, and so may the error.
        raise BusError("amqp_url in fedora-messaging's configuration is not a valid URL") from error
    broker = f"{parameters.host}:{parameters.port}"
    parameters.connection_attempts = 1
    parameters.socket_timeout = parameters.stack_timeout = seconds
    parameters.blocked_connection_timeout = seconds
    if parameters.ssl_options is not None:
        _identify(parameters, settings["tls"])
    try:
        connection = pika.BlockingConnection(parameters)
    except _LOGIN_ERRORS as error:
        raise BusError(
            f"{broker} rejects the login: {reason(error)}; check amqp_url and [tls] in "
            "fedora-messaging's configuration"
        ) from error
    except Exception as error:
        # pika raises any kind of error here: a stalled broker is not one of its AMQPErrors.
        raise BusError(f"cannot connect to the AMQP broker {broker}: {reason(error)}") from error
    try:
        yield connection, broker
    except (pika.exceptions.AMQPError, OSError) as error:
        raise BusError(f"the AMQP connection to {broker} failed: {reason(error)}") from error
    finally:
        if connection.is_open:
            connection.close()


def _identify(parameters: pika.ConnectionParameters, tls: dict[str, str | None]) -> None:
    """Set up TLS as fedora-messaging does: a client certificate, if there is one, is the
    identity.
    """
    if missing := [key for key in ("ca_cert", "certfile", "keyfile") if key not in tls]:
        raise BusError(f"[tls] in fedora-messaging's configuration has no {', '.join(missing)}")
    try:
        context = ssl.create_default_context(cafile=tls["ca_cert"])
        # Python 3.13 and later set this flag by default. Twisted, by which the worker connects,
        # does not, and accepts a CA certificate that lacks an extension of RFC 5280.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if tls["certfile"] and tls["keyfile"]:
            context.load_cert_chain(tls["certfile"], tls["keyfile"])
            parameters.credentials = pika.credentials.ExternalCredentials()
    except OSError as error:
        raise BusError(
            "cannot read the files that [tls] in fedora-messaging's configuration names: "
            f"{reason(error)}"
        ) from error
    parameters.ssl_options = pika.SSLOptions(context, parameters.host)
