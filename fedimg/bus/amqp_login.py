"""Whether the AMQP broker that fedora-messaging's configuration names lets fedimg in."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pika
import pika.exceptions

from fedimg.bus.amqp_publisher import configuration
from fedimg.bus.publisher import BusError

#: What pika calls a broker's refusal of who we are.
_STRANGERS = (
    pika.exceptions.AuthenticationError,
    pika.exceptions.ProbableAccessDeniedError,
    pika.exceptions.ProbableAuthenticationError,
)


def log_in(seconds: float) -> str:
    """Connect as fedora-messaging does, see the exchange, and leave; the broker's host and port.

    Each step takes up to `seconds`. Raises BusError.
    """
    settings = configuration()
    exchange = settings["publish_exchange"]
    with connected(settings, seconds) as (connection, where):
        try:
            connection.channel().exchange_declare(exchange, passive=True)
        except pika.exceptions.ChannelClosedByBroker as error:
            raise BusError(
                f"{where}: no exchange {exchange!r} for us: {error.reply_text}"
            ) from error
    return where


@contextmanager
def connected(
    settings: Mapping[str, Any], seconds: float
) -> Iterator[tuple[pika.BlockingConnection, str]]:
    """A connection as fedora-messaging's `settings` have it, and the broker's host and port.

    Each step of connecting takes up to `seconds`; a broker that is silent later is noticed by its
    heartbeat. Raises BusError.
    """
    try:
        parameters = pika.URLParameters(settings["amqp_url"])
    except Exception as error:
        # Of any kind; the URL may hold a password, and so may what is said about it.
        raise BusError("amqp_url in fedora-messaging's configuration is none") from error
    where = f"{parameters.host}:{parameters.port}"
    parameters.connection_attempts = 1
    parameters.socket_timeout = parameters.stack_timeout = seconds
    parameters.blocked_connection_timeout = seconds
    if parameters.ssl_options is not None:
        _identify(parameters, settings["tls"])
    try:
        connection = pika.BlockingConnection(parameters)
    except _STRANGERS as error:
        raise BusError(f"{where} does not let us in: {_reason(error)}") from error
    except Exception as error:
        # Of any kind: what pika says of a broker that stalls is no AMQPError of its own.
        raise BusError(f"no AMQP connection to {where}: {_reason(error)}") from error
    try:
        yield connection, where
    except (pika.exceptions.AMQPError, OSError) as error:
        raise BusError(f"the AMQP connection to {where} failed: {_reason(error)}") from error
    finally:
        if connection.is_open:
            connection.close()


def _identify(parameters: pika.ConnectionParameters, tls: dict[str, str | None]) -> None:
    """TLS as fedora-messaging has it: with a certificate of ours, that is who we are."""
    if missing := [key for key in ("ca_cert", "certfile", "keyfile") if key not in tls]:
        raise BusError(f"[tls] in fedora-messaging's configuration lacks {', '.join(missing)}")
    try:
        context = ssl.create_default_context(cafile=tls["ca_cert"])
        # On by default from Python 3.13 on, and not in Twisted, by which the worker connects: an
        # authority that leaves out an extension of RFC 5280's is good enough there.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if tls["certfile"] and tls["keyfile"]:
            context.load_cert_chain(tls["certfile"], tls["keyfile"])
            parameters.credentials = pika.credentials.ExternalCredentials()
    except OSError as error:
        raise BusError(
            f"cannot use the files of [tls] in fedora-messaging's configuration: {error}"
        ) from error
    parameters.ssl_options = pika.SSLOptions(context, parameters.host)


def _reason(error: BaseException) -> str:
    """What pika, which wraps causes in its own, was told below."""
    while error.args and isinstance(error.args[0], BaseException):
        error = error.args[0]
    inner = getattr(error, "exception", None)
    return str(inner or error) or repr(error)
