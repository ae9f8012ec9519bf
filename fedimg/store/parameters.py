"""Record which parameters of SSM are to name which AMIs, and how far that is so."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from fedimg.store.database import Database
from fedimg.store.tables import parameters

#: A place of a parameter: its region and its name.
Place = tuple[str, str]


@dataclass(frozen=True)
class Wanted:
    """An AMI that a parameter is to name; `series` is that of its image, of image `image`.

    `note` says, for a person, what is doubtful about the name.
    """

    ami: str
    image: str
    series: str
    note: str = ""


@dataclass(frozen=True)
class ParameterRow:
    """A parameter of one region, as fedimg wants it to be.

    Without an `ami` it is to be deleted. It is `right` when SSM has shown so. `put_at` is when it
    was put last, in epoch seconds, `tries` how often since it was wanted, and `doubt_until` until
    when SSM may still come to show what was put before. Nothing is done before `next_at`.
    `advanced` says that it was put into the Advanced tier.
    """

    region: str
    name: str
    ami: str | None
    image: str
    series: str
    right: bool
    tries: int
    put_at: float | None
    doubt_until: float
    next_at: float
    advanced: bool
    error: str | None
    note: str


_COLUMNS = [parameters.c[name] for name in ParameterRow.__dataclass_fields__]


class Parameters:
    """The parameters of all regions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self, region: str | None = None) -> list[ParameterRow]:
        """Return the parameters, of one region or of all, ordered by region and name."""
        query = sa.select(*_COLUMNS).order_by(parameters.c.region, parameters.c.name)
        if region is not None:
            query = query.where(parameters.c.region == region)
        with self._database.engine.connect() as connection:
            return [ParameterRow(*row) for row in connection.execute(query)]

    def due(self) -> list[ParameterRow]:
        """Return the parameters about which something is to be done now."""
        return [row for row in self.all() if not row.right and row.next_at <= time.time()]

    def next_due(self) -> float | None:
        """Return when something is to be done next, in epoch seconds, or None."""
        query = sa.select(sa.func.min(parameters.c.next_at)).where(~parameters.c.right)
        with self._database.engine.connect() as connection:
            found: float | None = connection.execute(query).scalar()
        return found

    def want(
        self, wanted: Mapping[Place, Wanted], *, advanced: bool, doubt_seconds: float
    ) -> list[Place]:
        """Record which AMIs the parameters are to name from now on; return the changed places.

        A recorded parameter that is not wanted any more is to be deleted. What was put less than
        `doubt_seconds` ago and was not seen yet may still be confirmed.
        """
        recorded = {(row.region, row.name): row for row in self.all()}
        changed: list[Place] = []
        with self._database.engine.begin() as connection:
            for place in sorted({*recorded, *wanted}):
                row, want = recorded.get(place), wanted.get(place)
                ami = want.ami if want else None
                if row is not None and row.ami == ami and (row.advanced or not (want and advanced)):
                    if want and (row.series, row.note) != (want.series, want.note):
                        connection.execute(_at(place).values(series=want.series, note=want.note))
                    continue
                changed.append(place)
                doubtful = row is not None and not row.right and row.put_at is not None
                values: dict[str, object] = {
                    "ami": ami,
                    "right": False,
                    "tries": 0,
                    "put_at": None,
                    "next_at": 0.0,
                    "error": None,
                    "note": want.note if want else "",
                }
                if row is not None and row.put_at is not None and doubtful:
                    values["doubt_until"] = row.put_at + doubt_seconds
                if want:
                    values |= {"image": want.image, "series": want.series}
                if row is not None:
                    connection.execute(_at(place).values(values))
                else:
                    values |= {"region": place[0], "name": place[1]}
                    connection.execute(sa.insert(parameters).values(values))
        return changed

    def putting(self, row: ParameterRow, *, advanced: bool) -> None:
        """Record that a parameter is about to be put."""
        now = time.time()
        self._set(row, put_at=now, tries=row.tries + 1, next_at=now, advanced=advanced)

    def wait(self, row: ParameterRow, until: float) -> None:
        """Record that nothing is to be done about a parameter before a time."""
        self._set(row, next_at=until)

    def settled(self, row: ParameterRow) -> None:
        """Record that SSM shows a parameter as it is wanted."""
        self._set(row, right=True, error=None, tries=0, put_at=None, doubt_until=0.0)

    def failed(self, row: ParameterRow, error: str, until: float, *, refused: bool) -> None:
        """Record why a parameter is not right, and when it is tried again.

        One whose put was `refused` was not put.
        """
        values: dict[str, object] = {"error": error, "next_at": until, "tries": row.tries + 1}
        self._set(row, **(values | ({"put_at": None} if refused else {})))

    def again(self, places: Collection[Place]) -> None:
        """Have parameters looked at again now, right or not."""
        for place in sorted(places):
            anew = {"right": False, "next_at": 0.0, "put_at": None, "tries": 0, "error": None}
            self._database.write(_at(place).values(anew))

    def forget(self, row: ParameterRow) -> None:
        """Forget a parameter that is deleted, unless it was wanted again meanwhile."""
        self._database.write(sa.delete(parameters).where(_is(row), parameters.c.ami.is_(None)))

    def _set(self, row: ParameterRow, **values: object) -> None:
        # What is wanted may have changed since the row was read: then this is of the past.
        same = parameters.c.ami == row.ami if row.ami else parameters.c.ami.is_(None)
        self._database.write(sa.update(parameters).where(_is(row), same).values(values))


def _is(row: ParameterRow) -> sa.ColumnElement[bool]:
    return (parameters.c.region == row.region) & (parameters.c.name == row.name)


def _at(place: Place) -> sa.Update:
    region, name = place
    return sa.update(parameters).where(parameters.c.region == region, parameters.c.name == name)
