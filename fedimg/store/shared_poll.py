"""Ask the database by one statement what several threads of a worker poll.

Each statement and each transaction costs an idle worker, and its server, more than what it asks.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from itertools import islice
from typing import Any

import sqlalchemy as sa

#: The time of the statement in seconds since the epoch, for the columns of questions.
NOW: sa.BindParameter[float] = sa.bindparam("now", type_=sa.Float)


class SharedPoll:
    """The questions of a worker's threads.

    Whoever asks reads for others, too: each question is asked along whose answer has reached half
    of its age limit. So threads that ask rarely find what the one that asks often has read. A
    question that nobody has asked yet is not asked along.

    Args:
        engine: the database's, with any options that the questions' tables need.
    """

    def __init__(self, engine: sa.Engine) -> None:
        if engine.dialect.name == "postgresql":
            # BEGIN and ROLLBACK around a single statement would be two more round trips.
            engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._engine = engine
        self._lock = threading.Lock()
        self._questions: list[Question] = []
        # Building a statement takes longer than asking by it.
        self._statements: dict[tuple[Question, ...], sa.Select[*tuple[Any, ...]]] = {}

    def question(self, columns: Sequence[sa.ColumnElement[Any]], seconds: float) -> Question:
        """Add a question, of scalars; an answer is at most `seconds` old.

        With 0 seconds the question is asked anew each time, and never along with another one.
        """
        question = Question(self, columns, seconds)
        self._questions.append(question)
        return question

    def refresh(self, question: Question) -> None:
        """Ask a question if its answer is too old, and others along with it."""
        with self._lock:
            now = time.monotonic()
            if now - question.read_at < question.seconds:
                return
            asked = tuple(each for each in self._questions if each is question or each.ages(now))
            if (statement := self._statements.get(asked)) is None:
                columns = [column for each in asked for column in each.columns]
                statement = self._statements[asked] = sa.select(*columns)
            with self._engine.connect() as connection:
                values = iter(connection.execute(statement, {"now": time.time()}).one())
            for each in asked:
                each.last = tuple(islice(values, len(each.columns)))
                each.read_at = now

    def outdate(self, question: Question) -> None:
        """Have the next answer to a question read anew, also when it is being read now."""
        with self._lock:
            question.read_at = -math.inf


class Question:
    """One question and its last answer."""

    def __init__(
        self, poll: SharedPoll, columns: Sequence[sa.ColumnElement[Any]], seconds: float
    ) -> None:
        self._poll = poll
        self.columns = columns
        self.seconds = seconds
        self.read_at = -math.inf
        self.last: tuple[Any, ...] = ()

    def ages(self, now: float) -> bool:
        """Return whether there is an answer that has reached half of its age limit."""
        return 0 < self.seconds / 2 <= now - self.read_at < math.inf

    def answer(self) -> tuple[Any, ...]:
        """Return the columns' values, read anew if too old. Raises the database's error."""
        self._poll.refresh(self)
        return self.last

    def outdate(self) -> None:
        """Have the next answer read anew, as what it tells was just changed."""
        self._poll.outdate(self)
