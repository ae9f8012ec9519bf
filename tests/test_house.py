"""The layout of fedimg and of its tests, and the map that is made from the modules.

Follows tools/house-map.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_top_floor_holds_twelve_modules_at_most() -> None:
    modules = [path for path in (ROOT / "fedimg").glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= 12


@pytest.mark.process
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


#: A docstring that begins so is a clause and no sentence; a function's begins with a verb.
QUESTION_WORDS = ("What", "Whether", "How", "Where", "Who", "When", "Which", "Why")


def test_docstrings_begin_with_a_verb_or_a_noun() -> None:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    clauses = [
        f"{path.relative_to(ROOT)}: {docstring.splitlines()[0]}"
        for folder in ("fedimg", "fedimg-messages", "lab", "tests", "bench", "tools")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, documented)
        and (docstring := ast.get_docstring(node) or "").split(" ", 1)[0] in QUESTION_WORDS
    ]
    assert clauses == []


#: These folders run whole processes, and each of their files follows a promise, not a module.
WHOLE_PROCESSES = ("tests/system", "tests/chaos", "tests/bench")

#: The sentence with which the docstring of a test file names what it follows, for want of a module.
FOLLOWS = re.compile(
    r"^Follows ([\w./*-]*[\w*-](?:(?:,\s+| and )[\w./*-]*[\w*-])*)\.$", re.MULTILINE
)


def mirrored(test: Path) -> list[Path]:
    """Return where the module would lie that a test file mirrors, from its own path.

    `tests/jobs/test_queue.py` mirrors `fedimg/jobs/queue.py`, `tests/lab/test_disk.py` mirrors
    `lab/disk.py`. A package of `lab` may be joined to the name: `tests/lab/test_ec2_faults.py`.
    """
    folder = test.relative_to(ROOT / "tests").parent
    name = test.stem.removeprefix("test_")
    joined = [name[:at] + "/" + name[at + 1 :] for at, sign in enumerate(name) if sign == "_"]
    root = ROOT if folder.parts[:1] == ("lab",) else ROOT / "fedimg"
    modules = [name, *joined]
    return [
        root / folder / path
        for module in modules
        for path in (f"{module}.py", f"{module}/__init__.py")
    ]


def followed(test: Path) -> list[str]:
    """Return the files that the docstring of a test file says it follows."""
    said = FOLLOWS.search(ast.get_docstring(ast.parse(test.read_text())) or "")
    return re.split(r",\s+| and ", said[1]) if said else []


def test_each_test_file_mirrors_a_module_or_says_what_it_follows() -> None:
    lost = []
    for test in sorted((ROOT / "tests").rglob("test_*.py")):
        inside = test.relative_to(ROOT).as_posix()
        named = followed(test)
        lost += [f"{inside}: {path} does not exist" for path in named if not list(ROOT.glob(path))]
        has_module = any(path.is_file() for path in mirrored(test))
        if not named and not has_module and not inside.startswith(WHOLE_PROCESSES):
            lost.append(f"{inside}: names nothing that it follows")
    assert lost == []


def test_each_module_with_functions_has_a_test_file() -> None:
    tested = {
        path
        for test in (ROOT / "tests").rglob("test_*.py")
        for path in [
            *mirrored(test),
            *(file for name in followed(test) for file in ROOT.glob(name)),
        ]
    }
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    untested = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "fedimg").rglob("*.py"))
        if path not in tested
        and any(isinstance(node, functions) for node in ast.walk(ast.parse(path.read_text())))
    ]
    assert untested == []


def test_no_test_file_imports_another() -> None:
    imports = re.compile(r"^\s*(?:from|import) tests\.(?:\w+\.)*test_\w+", re.MULTILINE)
    importing = [
        path for path in (ROOT / "tests").rglob("*.py") if imports.search(path.read_text())
    ]
    assert importing == []
