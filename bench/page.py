"""docs/: the benchmarks' own tables in it, put there from what they have kept."""

import re
from pathlib import Path

from bench.results import RESULTS, Result

_DOCS = Path(__file__).parent.parent / "docs"
PAGES = (_DOCS / "performance.md", _DOCS / "scaling.md")
#: Between these two, NAME's table; what stands around them is a person's.
_PLACE = "(<!-- bench {name} -->\n).*?(<!-- end -->)"


def update(names: list[str], results: Path = RESULTS, page: Path = PAGES[0]) -> list[str]:
    """Put each kept result into its place on the page; the names of those that were."""
    text = page.read_text()
    put = []
    for name in names:
        kept = results / f"{name}.json"
        if kept.exists():
            # No figure holds a backslash, which would mean something here.
            table = rf"\g<1>{Result.read(kept).markdown()}\n\g<2>"
            text, found = re.subn(_PLACE.format(name=name), table, text, flags=re.DOTALL)
            put += [name] if found else []
    page.write_text(text)
    return put
