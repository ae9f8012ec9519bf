"""The results of a benchmark: kept as JSON, shown as a table, each figure beside its budget."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

#: Where results are kept, and what is dear to make again.
RESULTS = Path(__file__).parent.parent / "build" / "bench"


@dataclass(frozen=True)
class Result:
    """The figures of one benchmark, and the most that some of them may be; perhaps a plot."""

    name: str
    figures: Mapping[str, float]
    budget: Mapping[str, float] = field(default_factory=dict)
    plot: str = field(default="", compare=False)

    @property
    def kept(self) -> bool:
        """True if every budget is kept."""
        return all(self.figures[key] <= most for key, most in self.budget.items())

    def write(self, folder: Path = RESULTS) -> Path:
        """Keep it as `folder`/NAME.json; the file."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.json"
        kept = {"name": self.name, "figures": dict(self.figures), "budget": dict(self.budget)}
        path.write_text(json.dumps(kept, indent=2) + "\n")
        return path

    @classmethod
    def read(cls, path: Path) -> "Result":
        """Return the results that `write` has kept."""
        return cls(**json.loads(path.read_text()))

    def show(self, console: Console) -> None:
        """Print it for a person."""
        table = Table(title=self.name, title_justify="left", box=None, pad_edge=False)
        table.add_column("figure")
        table.add_column("found", justify="right")
        table.add_column("budget", justify="right")
        table.add_column("")
        for key, value in self.figures.items():
            most = self.budget.get(key)
            verdict = "" if most is None else "kept" if value <= most else "[red]over[/red]"
            table.add_row(key, number(value), "" if most is None else number(most), verdict)
        console.print(table)
        if self.plot:
            console.print(f"\n{self.plot}", highlight=False)

    def markdown(self) -> str:
        """Return the results as a table for a page."""
        rows = [
            f"| `{key}` | {number(value)} | {number(most) if most is not None else ''} |"
            for key, value in self.figures.items()
            for most in (self.budget.get(key),)
        ]
        return "\n".join(["| figure | found | budget |", "|---|--:|--:|", *rows])


def number(value: float) -> str:
    """Return a figure as a person reads it, with three significant digits."""
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}"


def bars(title: str, rows: Sequence[tuple[str, float]], unit: str, width: int = 40) -> str:
    """Draw a plot in plain text, a bar a row."""
    most = max((value for _, value in rows), default=0) or 1
    wide = max((len(label) for label, _ in rows), default=0)
    lines = [
        f"{label:>{wide}} {'█' * max(1, round(width * value / most))} {number(value)} {unit}"
        for label, value in rows
    ]
    return "\n".join([title, *lines])
