"""From the outbox to a bus: each message is sent until the bus has been seen to take it.

What a message says is in fedimg.bus.messages, and how each bus is reached in a module that
fedimg.bus.publishers names.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import sqlalchemy.exc

from fedimg.bus import publishers
from fedimg.bus.publisher import BusUnavailable, Publisher
from fedimg.config import FEDMSG
from fedimg.store.rows import Announcement
from fedimg.store.store import Store

#: Messages that may be under way at once; ZeroMQ drops what exceeds 1000 in a queue.
WINDOW = 200
#: Messages read from the outbox at once. Those that the bus never takes, whatever the reason,
#: stay among them, so they have to be fewer.
_BATCH = 1000
#: How soon a new message is noticed, in seconds.
_LOOK_SECONDS = 0.25
#: The longest, in seconds, that a message which the bus does not take while it takes others is
#: let be; a person is told after this many tries.
_LONGEST_PAUSE = 3600.0
_STRANGE_TRIES = 4
#: Before all is set up anew after an error, in seconds.
_ERROR_PAUSE = 5.0

_log = logging.getLogger(__name__)


@dataclass
class _Sending:
    """One message of the outbox: how often and when it was sent, as what, when it is due again."""

    row: Announcement
    tries: int = 0
    sent: float = -math.inf
    due: float = 0.0
    ids: set[str] = field(default_factory=set)


class OutboxRelay:
    """A thread that empties the outbox, for one bus.

    A message leaves it when the bus was seen to have taken it: fedmsg's relay when it shows it on
    its outbound endpoint, as one that is down tells a publisher nothing; an AMQP broker when it
    confirms it. What was not taken within `confirm_seconds` is sent again. While nothing at all is
    taken, one message at a time is tried, so that a bus that takes messages and does not show them
    is not flooded.

    Args:
        store: where the outbox is.
        confirm_seconds: how long a message may take.
        bus: by its name in the configuration.
        buses: all of the site's; a message is announced when each has taken it.
        turn: of several workers one announces; the others wait until this is set.
    """

    def __init__(
        self,
        store: Store,
        confirm_seconds: float,
        bus: str = FEDMSG,
        buses: Sequence[str] = (FEDMSG,),
        *,
        turn: threading.Event | None = None,
    ) -> None:
        self._store = store
        self._turn = turn
        self._confirm = confirm_seconds
        self._bus = bus
        self._buses = frozenset(buses)
        self._thread = threading.Thread(target=self._run, name=thread_name(bus), daemon=True)
        self._stop = threading.Event()
        self._deadline = math.inf
        self._connect: Callable[[], Publisher]
        # Everything below belongs to the thread.
        self._sendings: dict[int, _Sending] = {}
        self._seen: set[int] = set()
        self._last_seen = -math.inf
        # A connection that is just being made swallows messages: begin with one.
        self._doubt = True
        self._warned = False

    def start(self) -> None:
        """Begin. Raises BusError when the bus's own configuration does not lead to it."""
        self._connect = publishers.publisher_for(self._bus, self._confirm)
        self._store.delivered((), self._bus, self._buses)
        self._thread.start()

    def tell_to_stop(self, timeout: float) -> None:
        """Send what is in the outbox, unless the bus is silent, and end within `timeout` seconds.

        What the bus has not been seen to take by then is sent again after the next start.
        """
        self._deadline = time.monotonic() + timeout
        self._stop.set()

    def stop(self, timeout: float) -> None:
        """The same, and wait for the end."""
        if not self._stop.is_set():
            self.tell_to_stop(timeout)
        if self._thread.ident is not None:
            self._thread.join(max(0.0, self._deadline - time.monotonic()))

    def _run(self) -> None:
        while self._turn and not self._turn.wait(_LOOK_SECONDS):
            if self._stop.is_set():
                return
        while not self._stop.is_set():
            try:
                self._serve()
            except Exception:
                # The thread is the only way out for announcements: it has to go on.
                _log.exception("announcing failed; it begins again in %g s", _ERROR_PAUSE)
                self._stop.wait(_ERROR_PAUSE)

    def _serve(self) -> None:
        connection = self._connect()
        try:
            while not self._may_end():
                try:
                    self._read()
                    self._send(connection)
                    self._hear(connection)
                    self._note()
                except sqlalchemy.exc.DBAPIError as error:
                    _log.error("the outbox cannot be used, tried again soon: %s", error)
                    self._stop.wait(_ERROR_PAUSE)
        finally:
            connection.close()

    def _may_end(self) -> bool:
        if not self._stop.is_set():
            return False
        return (
            self._warned
            or time.monotonic() > self._deadline
            or not self._store.unannounced(1, self._bus)
        )

    def _read(self) -> None:
        """Bring what is under way in line with the outbox."""
        self._sendings = {
            row.id: self._sendings.get(row.id) or _Sending(row)
            for row in self._store.unannounced(_BATCH, self._bus)
            if row.id not in self._seen
        }

    def _send(self, connection: Publisher) -> None:
        """Send what is due, oldest first; in doubt, one message: one that was tried least."""
        now = time.monotonic()
        due = [sending for sending in self._sendings.values() if sending.due <= now]
        self._doubt_if_silent([sending for sending in due if sending.tries])
        under_way = len(self._sendings) - len(due)
        if self._doubt:
            room = 0 if under_way else 1
            due.sort(key=lambda sending: sending.tries)
        else:
            room = WINDOW - under_way
        for sending in due[: max(room, 0)]:
            if not self._send_one(connection, sending, time.monotonic()):
                break

    def _doubt_if_silent(self, overdue: list[_Sending]) -> None:
        """Doubt the bus when it showed neither a message in time nor any that was sent later."""
        silent = [sending for sending in overdue if sending.sent > self._last_seen]
        if silent:
            self._doubt_because(
                silent[0],
                f"not seen within {self._confirm:g} s: does fedmsg-relay run, and are "
                "relay_inbound and endpoints['relay_outbound'] its addresses?",
            )

    def _doubt_because(self, sending: _Sending, reason: str) -> None:
        if not self._doubt:
            self._doubt = True
            for each in self._sendings.values():
                each.due = 0.0
        if not self._warned:
            self._warned = True
            _log.warning(
                "%s has not taken %s, %d messages wait: %s",
                self._bus,
                sending.row.topic,
                len(self._sendings),
                reason,
            )

    def _send_one(self, connection: Publisher, sending: _Sending, now: float) -> bool:
        """Send a message; False when the bus takes none at all."""
        sending.tries += 1
        # Silence of the whole bus is no reason to let a single message be.
        pause = self._confirm * (1 if self._doubt else 2 ** min(sending.tries - 1, 20))
        sending.due = now + min(pause, max(_LONGEST_PAUSE, self._confirm))
        try:
            row = sending.row
            sending.ids.add(connection.send(row.topic, row.body, row.key))
            sending.sent = now
        except BusUnavailable as error:
            sending.sent, sending.due = now, time.monotonic() + _ERROR_PAUSE
            self._doubt_because(sending, str(error))
            return False
        except Exception as error:
            # Of signing or encoding, which may raise anything; the others need not wait for it.
            _log.error("cannot send %s (%s): %r", sending.row.topic, sending.row.key, error)
        if sending.tries == _STRANGE_TRIES and not self._doubt:
            _log.warning(
                "%s takes other messages but not %s (%s)",
                self._bus,
                sending.row.topic,
                sending.row.key,
            )
        return True

    def _hear(self, connection: Publisher) -> None:
        """Notice which messages the bus has taken."""
        under_way = {each: sending for sending in self._sendings.values() for each in sending.ids}
        for message_id, topic, body in connection.confirmed(_LOOK_SECONDS):
            sending = under_way.get(message_id)
            if sending and (topic, body) == (sending.row.topic, sending.row.body):
                self._seen.add(sending.row.id)
                self._last_seen = time.monotonic()
        if self._doubt and self._seen:
            self._trust_again()

    def _trust_again(self) -> None:
        if self._warned:
            _log.warning("%s takes messages again", self._bus)
        self._doubt = self._warned = False
        for sending in self._sendings.values():
            sending.tries, sending.due = 0, 0.0

    def _note(self) -> None:
        if self._seen:
            self._store.delivered(self._seen, self._bus, self._buses)
            self._seen.clear()


def thread_name(bus: str) -> str:
    """What the thread is called that empties the outbox for a bus."""
    return f"messenger {bus}"
