"""Record which tools a utility AMI lacks, as an instance of it has told; an AMI never changes."""

from __future__ import annotations

import time

import sqlalchemy as sa

from fedimg.store.database import Database
from fedimg.store.tables import lacking_tools


class UtilityTools(Database):
    """The tools that utility AMIs lack, by AMI."""

    def record_lacking_tool(self, ami: str, tool: str) -> None:
        """Record that a utility AMI lacks a tool; a repetition changes nothing."""
        self.write(
            self.insert(lacking_tools)
            .values(ami=ami, tool=tool, at=time.time())
            .on_conflict_do_nothing(index_elements=["ami", "tool"])
        )

    def lacking_tools(self, ami: str) -> list[str]:
        """Return the tools that a utility AMI is known to lack, sorted."""
        query = sa.select(lacking_tools.c.tool).where(lacking_tools.c.ami == ami)
        with self.engine.connect() as connection:
            return sorted(connection.execute(query).scalars())
