"""Test what is recorded about the tools of utility AMIs."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from fedimg.store.store import Store


def test_lacking_tools_are_recorded_by_ami_once(tmp_path: Path) -> None:
    with closing(Store(tmp_path)) as store:
        assert store.lacking_tools("ami-1") == []
        for tool in ("zstd", "gzip", "zstd"):
            store.record_lacking_tool("ami-1", tool)
        assert store.lacking_tools("ami-1") == ["gzip", "zstd"]
        assert store.lacking_tools("ami-2") == []
