"""The layout of fedimg: few modules on the top floor, and a map that is made from the modules."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_top_floor_holds_twelve_modules_at_most() -> None:
    modules = [path for path in (ROOT / "fedimg").glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= 12


def test_map_in_the_documentation_is_made_from_the_modules() -> None:
    ran = subprocess.run(
        [sys.executable, ROOT / "tools" / "house-map", "--check"], capture_output=True, text=True
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def test_each_package_says_what_it_is_for() -> None:
    for path in (ROOT / "fedimg").rglob("__init__.py"):
        first = path.read_text().splitlines()[0]
        assert first.startswith('"""'), path
        assert len(first) > 20, path
