"""Send the messages of the outbox to a bus, again and again until the bus confirms each of them.

fedimg.bus.messages builds the messages; fedimg.bus.publishers connects to the buses.
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
from fedimg.bus.publisher import BusUnavailable, MessageRefused, MessageReturned, Publisher
from fedimg.config import FEDMSG
from fedimg.process.backoff import Backoff
from fedimg.store.parked import Parked
from fedimg.store.rows import Announcement
from fedimg.store.store import Store
from fedimg.untrusted.failures import reason

#: Most unconfirmed messages at a time; ZeroMQ drops messages beyond 1000 in a queue.
WINDOW = 200
#: Messages read from the outbox at once; messages that the bus never confirms fill a part of them.
_BATCH = 1000
#: Seconds between two reads of the outbox.
_POLL_SECONDS = 0.25
#: Polling interval of an empty outbox, in seconds.
_REST_SECONDS = 1.0
#: Interval, in seconds, at which confirmations are recorded while messages are awaited.
_RECORD_SECONDS = 1.0
#: Longest pause, in seconds, between two tries of a message that the bus does not confirm while it
#: confirms others.
_LONGEST_PAUSE = 3600.0
#: The try after which the log warns of such a message.
_WARN_TRIES = 4
#: Pause after an error, in seconds.
_ERROR_PAUSE = 5.0

_log = logging.getLogger(__name__)


@dataclass
class _Sending:
    """One message of the outbox: its tries, when it was sent and is due again, and its ids."""

    row: Announcement
    tries: int = 0
    sent: float = -math.inf
    due: float = 0.0
    ids: set[str] = field(default_factory=set)
    #: How often the bus handed it back, when first, and why at last.
    returns: int = 0
    returned: float = 0.0
    problem: str = ""


class OutboxRelay:
    """A thread that empties the outbox for one bus.

    A message leaves the outbox when the bus has confirmed it. An AMQP broker confirms each message;
    fedmsg's relay confirms a message by sending it out on its outbound endpoint. A message that is
    not confirmed within `confirm_seconds` is sent again. While the bus confirms nothing, only one
    message at a time is sent, in order not to flood a bus whose confirmations are lost.

    Args:
        store: the database that holds the outbox.
        confirm_seconds: timeout for the bus to confirm a message.
        bus: the bus, by its name in the configuration.
        buses: all buses of the site; a message counts as sent when each of them has confirmed it.
        turn: set when this worker may send; of several workers only one does.
        pending: tells whether the outbox may hold messages; asked while this relay rests.
    """

    def __init__(
        self,
        store: Store,
        confirm_seconds: float,
        bus: str = FEDMSG,
        buses: Sequence[str] = (FEDMSG,),
        *,
        turn: threading.Event | None = None,
        pending: Callable[[], bool] = lambda: True,
    ) -> None:
        self._store = store
        self._turn = turn
        self._pending = pending
        self._parked = Parked(store)
        self._confirm = confirm_seconds
        self._backoff = Backoff(self._confirm, max(_LONGEST_PAUSE, self._confirm))
        self._bus = bus
        self._buses = frozenset(buses)
        self._thread = threading.Thread(target=self._run, name=thread_name(bus), daemon=True)
        self._stop = threading.Event()
        self._deadline = math.inf
        self._connect: Callable[[], Publisher]
        # Only the thread uses the attributes below.
        self._sendings: dict[int, _Sending] = {}
        self._confirmed: set[int] = set()
        self._last_confirmed = -math.inf
        # When confirmations were recorded.
        self._recorded_at = -math.inf
        # When the outbox was read, and how many messages this process had announced by then.
        self._read_at, self._seen = -math.inf, 0
        # A new connection may lose messages: begin with one.
        self._unresponsive = True
        self._warned = False

    def start(self) -> None:
        """Start the thread. Raises BusError when the bus's own configuration is unusable."""
        self._connect = publishers.publisher_for(self._bus, self._confirm)
        self._store.delivered((), self._bus, self._buses)
        self._thread.start()

    def tell_to_stop(self, timeout: float) -> None:
        """Have the thread send what the outbox holds, and end within `timeout` seconds.

        It ends at once when the bus does not respond. Messages that are not confirmed by then are
        sent again after the next start.
        """
        self._deadline = time.monotonic() + timeout
        self._stop.set()

    def stop(self, timeout: float) -> None:
        """Do what `tell_to_stop` does, and wait for the thread to end."""
        if not self._stop.is_set():
            self.tell_to_stop(timeout)
        if self._thread.ident is not None:
            self._thread.join(max(0.0, self._deadline - time.monotonic()))

    def _run(self) -> None:
        while self._turn and not self._turn.wait(_POLL_SECONDS):
            if self._stop.is_set():
                return
        while not self._stop.is_set():
            try:
                self._serve()
            except Exception:
                # No other thread sends announcements: this one has to go on.
                _log.exception(
                    "cannot send announcements to %s; trying again in %g s", self._bus, _ERROR_PAUSE
                )
                self._stop.wait(_ERROR_PAUSE)

    def _serve(self) -> None:
        connection = self._connect()
        try:
            while not self._may_end():
                try:
                    self._read()
                    self._send(connection)
                    self._receive(connection)
                    self._record()
                except sqlalchemy.exc.DBAPIError as error:
                    _log.error(
                        "cannot use the outbox; trying again in %g s: %s", _ERROR_PAUSE, error
                    )
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
        """Read the messages of the outbox that the bus has not confirmed.

        An empty outbox is read at most once a second, unless this process has announced something,
        and only if there may be messages: other workers announce, too.
        """
        announcements = self._store.announcements
        resting = not self._sendings and announcements == self._seen and not self._stop.is_set()
        rested = time.monotonic() >= self._read_at + _REST_SECONDS
        if resting and not (rested and self._pending()):
            return
        self._read_at, self._seen = time.monotonic(), announcements
        self._sendings = {
            row.id: self._sendings.get(row.id) or _Sending(row)
            for row in self._store.unannounced(_BATCH, self._bus)
            if row.id not in self._confirmed
        }

    def _send(self, connection: Publisher) -> None:
        """Send the messages that are due, oldest first.

        To an unresponsive bus, send one message: one with the fewest tries.
        """
        now = time.monotonic()
        due = [sending for sending in self._sendings.values() if sending.due <= now]
        self._check_response([sending for sending in due if sending.tries])
        under_way = len(self._sendings) - len(due)
        if self._unresponsive:
            room = 0 if under_way else 1
            due.sort(key=lambda sending: sending.tries)
        else:
            room = WINDOW - under_way
        for sending in due[: max(room, 0)]:
            if not self._send_one(connection, sending, time.monotonic()):
                break

    def _check_response(self, overdue: list[_Sending]) -> None:
        """Note that the bus does not respond when it confirmed no message since an overdue one."""
        silent = [sending for sending in overdue if sending.sent > self._last_confirmed]
        if silent:
            self._note_unresponsive(
                silent[0],
                silent[0].problem
                or f"no confirmation within {self._confirm:g} s; check that fedmsg-relay runs, and "
                "that relay_inbound and endpoints['relay_outbound'] are its addresses",
            )

    def _note_unresponsive(self, sending: _Sending, reason: str) -> None:
        if not self._unresponsive:
            self._unresponsive = True
            for each in self._sendings.values():
                each.due = 0.0
        if not self._warned:
            self._warned = True
            _log.warning(
                "%s did not confirm %s, and %d messages wait: %s",
                self._bus,
                sending.row.topic,
                len(self._sendings),
                reason,
            )

    def _send_one(self, connection: Publisher, sending: _Sending, now: float) -> bool:
        """Send a message; return False when the bus accepts no messages."""
        sending.tries += 1
        # When the whole bus is unresponsive, no single message is to blame.
        tries = 1 if self._unresponsive else sending.tries
        sending.due = now + self._backoff.pause(tries)
        try:
            row = sending.row
            sending.ids.add(connection.send(row.topic, row.body, row.key))
            sending.sent = now
        except BusUnavailable as error:
            sending.sent, sending.due = now, time.monotonic() + _ERROR_PAUSE
            self._note_unresponsive(sending, str(error))
            return False
        except MessageRefused as error:
            self._park(sending, str(error))
            return True
        except MessageReturned as error:
            self._postpone(sending, now, str(error))
            return True
        except Exception as error:
            # Signing and encoding raise any kind of error; the other messages need not wait.
            _log.error(
                "cannot send %s of %s to %s: %s",
                sending.row.topic,
                sending.row.key,
                self._bus,
                reason(error),
            )
        if sending.tries == _WARN_TRIES and not self._unresponsive:
            _log.warning(
                "%s confirms other messages, but not %s of %s; it is sent again at growing "
                "intervals",
                self._bus,
                sending.row.topic,
                sending.row.key,
            )
        return True

    def _park(self, sending: _Sending, reason: str) -> None:
        """Set aside a message that the bus refuses, until an operator decides about it."""
        row = sending.row
        self._parked.park(row.id, self._bus, reason)
        del self._sendings[row.id]
        _log.error(
            "%s refuses %s of %s, message %d, which is parked: %s; 'fedimg outbox' shows it, "
            "'fedimg outbox --resend %d' sends it again, and --drop gives it up",
            self._bus,
            row.topic,
            row.key,
            row.id,
            reason,
            row.id,
        )
        # A refusal is an answer, too.
        self._last_confirmed = time.monotonic()
        if self._unresponsive:
            self._note_responsive()

    def _postpone(self, sending: _Sending, now: float, reason: str) -> None:
        """Note that the bus handed a message back: it is tried again, and parked at some time.

        It is parked when the bus took others meanwhile. While the bus takes nothing, such as one
        whose queues are full, every message waits.
        """
        sending.sent = now
        sending.problem = reason
        sending.returns += 1
        if sending.returns == 1:
            sending.returned = now
        if sending.returns >= _WARN_TRIES and self._last_confirmed > sending.returned:
            self._park(sending, reason)

    def _receive(self, connection: Publisher) -> None:
        """Note which messages the bus has confirmed."""
        under_way = {each: sending for sending in self._sendings.values() for each in sending.ids}
        for message_id, topic, body in connection.confirmed(_POLL_SECONDS):
            sending = under_way.get(message_id)
            if sending and (topic, body) == (sending.row.topic, sending.row.body):
                self._confirmed.add(sending.row.id)
                self._last_confirmed = time.monotonic()
        if self._unresponsive and self._confirmed:
            self._note_responsive()

    def _note_responsive(self) -> None:
        if self._warned:
            _log.warning("%s confirms messages again", self._bus)
        self._unresponsive = self._warned = False
        for sending in self._sendings.values():
            sending.tries, sending.due = 0, 0.0

    def _record(self) -> None:
        """Record the confirmations: those of a second at once, as long as others are awaited.

        The next worker sends again what was not recorded before a crash.
        """
        awaited = self._sendings.keys() - self._confirmed
        soon = time.monotonic() < self._recorded_at + _RECORD_SECONDS
        if self._confirmed and not (awaited and soon and not self._stop.is_set()):
            self._store.delivered(self._confirmed, self._bus, self._buses)
            self._confirmed.clear()
            self._recorded_at = time.monotonic()


def thread_name(bus: str) -> str:
    """Return the name of the thread that empties the outbox for a bus."""
    return f"outbox relay {bus}"
