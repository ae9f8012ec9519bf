"""A fedimg whose writing transactions are counted, by what they write.

`python -m bench.commits FILE ARGUMENTS…` is `fedimg ARGUMENTS…` with each transaction that wrote
and was committed as a line in FILE: the tables that it wrote to.
"""

import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

_WRITES = re.compile(r"\s*(?:INSERT\s+INTO|UPDATE|DELETE\s+FROM)\s+\"?([\w.]+)", re.IGNORECASE)


def count(file: Path) -> None:
    """Write down the transactions of all engines of this process from here on."""
    with file.open("a", buffering=1) as log:

        @event.listens_for(sa.Engine, "before_cursor_execute")
        def see(connection: sa.Connection, _cursor: Any, statement: str, *_: Any) -> None:
            if written := _WRITES.match(statement):
                tables = connection.info.setdefault("bench", {})
                # The schema of DBOS's tables on PostgreSQL says nothing.
                tables[written[1].rpartition(".")[2]] = None

        @event.listens_for(sa.Engine, "commit")
        def note(connection: sa.Connection) -> None:
            if tables := connection.info.pop("bench", None):
                print(" ".join(tables), file=log)

        @event.listens_for(sa.Engine, "rollback")
        def forget(connection: sa.Connection) -> None:
            connection.info.pop("bench", None)

        from fedimg.cli import commands

        commands.main()


def read(file: Path) -> Counter[str]:
    """Return how many transactions so far wrote to which tables."""
    return Counter(file.read_text().splitlines() if file.exists() else ())


def main() -> None:
    """Be fedimg, and count."""
    file = Path(sys.argv[1])
    sys.argv = ["fedimg", *sys.argv[2:]]
    count(file)


if __name__ == "__main__":
    main()
