"""tools/audit: what it says of the pinned packages, by PyPI's answers and by a downloaded set.

Follows tools/audit, tools/osv.py.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.process

ROOT = Path(__file__).parent.parent
FRESH = f"{datetime.now(UTC) - timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}"
#: As `make requirements` writes them: names that are normalised, markers, hashes on further lines.
REQUIREMENTS = """\
# comment
cryptography==43.0.3 \\
    --hash=sha256:aa
google-re2==1.1.20251105 \\
    --hash=sha256:bb
zope-interface==8.7 ; python_version >= '3.11' \\
    --hash=sha256:cc \\
    --hash=sha256:dd
pytz==2026.6 \\
    --hash=sha256:ee
"""
#: What docs/security.md is to the shipped requirements.
JUDGED = """\
Text about CVE-2020-1, which judges nothing.

| pinned version | advisory | about | fixed in | fedimg |
|---|---|---|---|---|
| cryptography 43.0.3 | CVE-2026-1, GHSA-aaaa-bbbb-cccc | a curve | 46 | not affected: RSA alone |
| pytz 2025.1 | CVE-2026-2 | a zone | 2026.7 | not affected |
| zope.interface 8.7 | CVE-2026-3 | a face | 9 | |
"""


def advisory(
    identity: str = "GHSA-2222-3333-4444",
    name: str = "cryptography",
    events: Sequence[Mapping[str, str]] = ({"introduced": "0"}, {"fixed": "44.0.1"}),
    **more: Any,
) -> dict[str, Any]:
    """Return an advisory in OSV's format about one package of PyPI."""
    affected = {
        "package": {"ecosystem": "PyPI", "name": name, "purl": f"pkg:pypi/{name}"},
        "ranges": [{"type": "ECOSYSTEM", "events": [dict(event) for event in events]}],
    }
    return {"id": identity, "modified": FRESH, "schema_version": "1.7.3"} | (
        {"affected": [affected]} | more
    )


def about(name: str, **more: Any) -> dict[str, Any]:
    """Return an advisory whose only `affected` entry has these keys beside the package."""
    entry = {"package": {"ecosystem": "PyPI", "name": name}} | more
    return advisory() | {"affected": [entry]}


class Audit:
    """Runs tools/audit on a requirements file and a set of advisories in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requirements = folder / "requirements.txt"
        self.requirements.write_text(REQUIREMENTS)
        self.judged = folder / "security.md"
        self.judged.write_text(JUDGED)

    def packed(self, *advisories: Any, **files: str) -> Path:
        """Return a zip of advisories, as OSV publishes one, and of further files by their names."""
        path = self.folder / "all.zip"
        with zipfile.ZipFile(path, "w") as packed:
            for number, each in enumerate(advisories):
                packed.writestr(f"{number}-{each['id']}.json", json.dumps(each))
            for name, text in files.items():
                packed.writestr(f"{name}.json", text)
        return path

    def run(self, advisories: Path) -> subprocess.CompletedProcess[str]:
        return self.call("--advisories", str(advisories))

    def call(self, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, ROOT / "tools/audit", *options, "--judged", self.judged]
        return subprocess.run([*command, self.requirements], capture_output=True, text=True)


@pytest.fixture
def audit(tmp_path: Path) -> Audit:
    return Audit(tmp_path)


# By a downloaded set


@pytest.mark.parametrize(
    ("events", "affected"),
    [
        ([{"introduced": "0"}], True),
        ([{"introduced": "0"}, {"fixed": "43.0.3"}], False),
        ([{"introduced": "0"}, {"fixed": "43.0.4"}], True),
        ([{"introduced": "0"}, {"last_affected": "43.0.3"}], True),
        ([{"introduced": "0"}, {"last_affected": "43.0.2"}], False),
        ([{"introduced": "43.0.3"}], True),
        ([{"introduced": "43.0.4"}], False),
        # Versions are no texts: 5 is before 43, and 43.0.3rc1 before 43.0.3.
        ([{"introduced": "0"}, {"fixed": "5.0"}], False),
        ([{"introduced": "0"}, {"fixed": "43.0.3rc1"}], False),
        # Several stretches, in any order; one ends where the next begins.
        ([{"fixed": "2"}, {"introduced": "43"}, {"introduced": "0"}], True),
        ([{"introduced": "0"}, {"fixed": "2"}, {"introduced": "2"}, {"fixed": "50"}], True),
        ([{"introduced": "0"}, {"fixed": "2"}, {"introduced": "44"}], False),
        ([{"introduced": "0"}, {"limit": "40"}], False),
        ([{"introduced": "0"}, {"limit": "*"}], True),
    ],
)
def test_ranges_are_compared_as_pypi_compares_versions(
    audit: Audit, events: list[dict[str, str]], affected: bool
) -> None:
    done = audit.run(audit.packed(advisory(events=events)))
    assert done.returncode == int(affected), done.stderr
    assert ("cryptography 43.0.3: GHSA-2222-3333-4444" in done.stdout) is affected


def test_named_versions_count_in_any_spelling(audit: Audit) -> None:
    one = about("pytz", versions=["2004b-legacy", "2026.6.0"])
    done = audit.run(audit.packed(one))
    assert done.returncode == 1
    assert "pytz 2026.6: GHSA-2222-3333-4444, fixed in no release" in done.stdout
    assert audit.run(audit.packed(about("pytz", versions=["2026.5"]))).returncode == 0


@pytest.mark.parametrize("name", ["zope.interface", "Zope_Interface", "zope-interface"])
def test_names_are_normalised(audit: Audit, name: str) -> None:
    done = audit.run(audit.packed(advisory(name=name, events=[{"introduced": "0"}])))
    assert done.returncode == 1
    assert "zope-interface 8.7: " in done.stdout


def test_fixed_releases_are_distinguished_from_affected_ones(audit: Audit) -> None:
    events = [{"introduced": "0"}, {"fixed": "41.0.5"}, {"introduced": "42"}, {"fixed": "44.0.1"}]
    done = audit.run(audit.packed(advisory(events=events)))
    assert "fixed in 44.0.1\n" in done.stdout


def test_other_packages_and_ecosystems_are_not_ours(audit: Audit) -> None:
    foreign = advisory("GHSA-npm")
    foreign["affected"][0]["package"] = {"ecosystem": "npm", "name": "cryptography"}
    done = audit.run(audit.packed(foreign, advisory(name="django")))
    assert done.returncode == 0
    assert "4 of 4 packages looked up" in done.stdout


def test_withdrawn_advisories_are_ignored(audit: Audit) -> None:
    done = audit.run(audit.packed(advisory(withdrawn=FRESH), advisory(name="django")))
    assert done.returncode == 0
    assert "GHSA" not in done.stdout


def test_one_vulnerability_in_two_databases_is_told_once_with_its_aliases(audit: Audit) -> None:
    done = audit.run(
        audit.packed(
            advisory("PYSEC-2026-9", aliases=["CVE-2026-9"]),
            advisory("GHSA-xxxx-yyyy-zzzz", aliases=["CVE-2026-9"]),
        )
    )
    assert done.returncode == 1
    (line,) = re.findall(r"cryptography 43\.0\.3: .*", done.stdout)
    assert line.startswith("cryptography 43.0.3: GHSA-xxxx-yyyy-zzzz, CVE-2026-9, PYSEC-2026-9,")


def test_advisory_whose_versions_cannot_be_compared_counts(audit: Audit) -> None:
    commits = [{"type": "GIT", "repo": "https://x", "events": [{"introduced": "0"}]}]
    done = audit.run(audit.packed(about("pytz", ranges=commits)))
    assert done.returncode == 1
    assert "pytz 2026.6" in done.stdout
    # Where the versions are named as well, these decide.
    known = about("pytz", ranges=commits, versions=["1"])
    assert audit.run(audit.packed(known)).returncode == 0


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("no-json", "{"),
        ("no-object", "[]"),
        ("nothing", "{}"),
        ("no-time", json.dumps(advisory(modified="lately"))),
        ("no-list", json.dumps(advisory(affected="all"))),
        ("no-name", json.dumps(about("pytz") | {"affected": [{"package": {}}]})),
        ("no-event", json.dumps(advisory(events=[{"fixed": "1", "introduced": "0"}]))),
        ("no-version", json.dumps(advisory(events=[{"introduced": "0"}, {"fixed": "next"}]))),
        ("no-text", json.dumps(advisory(events=[{"introduced": 0}]))),  # type: ignore[dict-item]
        ("deep", "[" * 100_000),
    ],
)
def test_file_that_cannot_be_read_is_named_and_hides_no_other(
    audit: Audit, name: str, text: str
) -> None:
    done = audit.run(audit.packed(advisory(), **{name: text}))
    assert done.returncode == 2
    assert f"{name}.json" in done.stderr
    assert "Traceback" not in done.stderr
    assert "cryptography 43.0.3: GHSA-2222-3333-4444" in done.stdout


def test_empty_advisory_set_is_an_error(audit: Audit) -> None:
    foreign = advisory()
    foreign["affected"][0]["package"]["ecosystem"] = "npm"
    empty = audit.folder / "empty"
    empty.mkdir()
    for advisories in (empty, audit.packed(), audit.packed(foreign)):
        done = audit.run(advisories)
        assert done.returncode == 2
        assert f"{advisories} contains no advisory about PyPI's packages" in done.stderr
        assert "all.zip" in done.stderr


def test_invalid_advisory_set_is_named(audit: Audit) -> None:
    rubbish = audit.folder / "page.zip"
    rubbish.write_text("<html>not found</html>")
    cut = audit.folder / "cut.zip"
    cut.write_bytes(audit.packed(advisory()).read_bytes()[:-30])
    for advisories in (audit.folder / "nowhere", rubbish, cut):
        done = audit.run(advisories)
        assert done.returncode == 2
        assert str(advisories) in done.stderr
        assert "Traceback" not in done.stderr


def test_damaged_file_in_a_zip_is_named(audit: Audit) -> None:
    path = audit.packed(advisory(), advisory("GHSA-other", name="django"))
    path.write_bytes(path.read_bytes().replace(b"django", b"djungo"))
    done = audit.run(path)
    assert done.returncode == 2
    assert "1-GHSA-other.json" in done.stderr


def test_old_advisory_set_is_warned_of(audit: Audit) -> None:
    def modified(days: float) -> Path:
        then = datetime.now(UTC) - timedelta(days=days)
        return audit.packed(
            advisory(name="django", modified=f"{then:%Y-%m-%dT%H:%M:%S.%fZ}"),
            advisory(name="django", modified="2019-01-01T00:00:00Z"),
        )

    old = audit.run(modified(31))
    assert old.returncode == 0
    assert "31 days old" in old.stderr
    assert audit.run(modified(29)).stderr == ""


def test_folders_of_json_and_of_pypas_yaml_are_read(audit: Audit) -> None:
    unpacked = audit.folder / "unpacked"
    unpacked.mkdir()
    (unpacked / "GHSA-1.json").write_text(json.dumps(advisory()))
    assert "GHSA-2222" in audit.run(unpacked).stdout

    # As the repository has them: beside the advisories lies what is none, and times and versions
    # stand without quotation marks.
    repository = audit.folder / "advisory-database"
    for name in ("vulns/pytz", ".github/workflows", "tools"):
        (repository / name).mkdir(parents=True)
    for other in (".github/workflows/ci.yaml", "tools/some.yaml", ".pre-commit-config.yaml"):
        (repository / other).write_text("on: push\n")
    text = yaml.safe_dump(advisory("PYSEC-2026-7", name="pytz", events=[{"introduced": "0"}]))
    text = text.replace(f"'{FRESH}'", FRESH) + "withdrawn: null\n"
    (repository / "vulns/pytz/PYSEC-2026-7.yaml").write_text(text)
    plain = yaml.safe_dump(about("google_re2"))
    plain = plain.replace("- package:", "- versions: [1.1.20251105, 1.10]\n  package:")
    (repository / "vulns/pytz/PYSEC-2026-8.yaml").write_text(plain)
    done = audit.run(repository)
    assert done.returncode == 1, done.stderr
    assert "pytz 2026.6: PYSEC-2026-7" in done.stdout
    assert "google-re2 1.1.20251105: GHSA" in done.stdout
    (repository / "vulns/pytz/PYSEC-2026-9.yaml").write_text("id: [\n")
    broken = audit.run(repository)
    assert broken.returncode == 2
    assert "PYSEC-2026-9.yaml" in broken.stderr


def test_requirement_without_a_version_is_not_looked_up(audit: Audit) -> None:
    audit.requirements.write_text(REQUIREMENTS + "django>=1\n")
    done = audit.run(audit.packed(advisory(name="other")))
    assert done.returncode == 2
    assert "django" in done.stderr
    assert "4 of 5 packages looked up" in done.stdout


def test_shipped_requirements_are_looked_up_whole(tmp_path: Path) -> None:
    packed = Audit(tmp_path).packed(advisory(name="twisted", events=[{"introduced": "0"}]))
    done = subprocess.run(
        ["make", "--silent", "audit", f"ADVISORIES={packed}"],
        cwd=ROOT,
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        text=True,
    )
    pinned = re.findall(r"(?m)^[\w.-]+==", (ROOT / "requirements/fedimg.txt").read_text())
    assert len(pinned) > 50
    assert f"{len(pinned)} of {len(pinned)} packages looked up" in done.stdout
    assert "twisted 26" in done.stdout
    # make's own status for a rule that failed; the rule's is told beside it.
    assert done.returncode == 2
    assert "Error 1" in done.stderr


# By PyPI's answers


def answered(audit: Audit, answer: str) -> subprocess.CompletedProcess[str]:
    """Run the audit with a pip-audit that prints `answer`."""
    program = audit.folder / "pip-audit"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{answer}\nEND\n")
    program.chmod(0o755)
    return audit.call("--pip-audit", str(program))


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        ('{"dependencies": [{"name": "a", "version": "1", "vulns": []}]}', 0, "1 of 1 packages"),
        (
            '{"dependencies": [{"name": "a", "version": "1", "vulns": '
            '[{"id": "CVE-1", "fix_versions": ["2"]}]}]}',
            1,
            "a 1: CVE-1, fixed in 2",
        ),
        ('{"dependencies": [{"name": "a", "skip_reason": "not found"}]}', 2, "nothing is known"),
        ('{"dependencies": []}', 2, "nothing is known"),
        ("no connection", 2, "could not be reached"),
    ],
)
def test_audit_reports_a_lack_of_advisories(
    audit: Audit, answer: str, status: int, said: str
) -> None:
    done = answered(audit, answer)
    assert done.returncode == status
    assert said in done.stdout + done.stderr


# What people have judged


def test_judged_advisories_are_listed_and_do_not_fail_the_audit(audit: Audit) -> None:
    judged = advisory("PYSEC-2026-1", aliases=["CVE-2026-1"])
    found = {
        "name": "cryptography",
        "version": "43.0.3",
        "vulns": [{"id": "PYSEC-2026-1", "aliases": ["CVE-2026-1"], "fix_versions": ["44.0.1"]}],
    }
    for done in (
        audit.run(audit.packed(judged)),
        answered(audit, json.dumps({"dependencies": [found]})),
    ):
        assert done.returncode == 0, done.stderr
        assert "CVE-2026-1, PYSEC-2026-1, fixed in 44.0.1; judged in " in done.stdout
        assert f"judged in {audit.judged}" in done.stdout
        assert "1 advisory, 1 of them judged" in done.stdout


@pytest.mark.parametrize(
    ("identity", "name"),
    [
        # Of another version; a row without a judgement; a name in the text alone.
        ("CVE-2026-2", "pytz"),
        ("CVE-2026-3", "zope-interface"),
        ("CVE-2020-1", "cryptography"),
        ("CVE-2026-1", "pytz"),
    ],
)
def test_judgement_counts_for_its_advisory_and_version_alone(
    audit: Audit, identity: str, name: str
) -> None:
    done = audit.run(audit.packed(advisory(identity, name=name, events=[{"introduced": "0"}])))
    assert done.returncode == 1
    assert "judged in" not in done.stdout


def test_page_without_judgements_is_reported(audit: Audit) -> None:
    audit.judged.unlink()
    done = audit.run(audit.packed(advisory()))
    assert done.returncode == 2
    assert "security.md" in done.stderr


def test_every_judgement_of_the_documentation_is_read_and_is_about_a_pinned_release(
    audit: Audit,
) -> None:
    page = (ROOT / "docs/security.md").read_text()
    audit.judged.write_text(page)
    audit.requirements.write_text((ROOT / "requirements/fedimg.txt").read_text())
    table = page[page.index("| pinned version | advisory |") :].partition("\n\n")[0]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()[2:]]
    assert len(rows) > 5
    found = [
        advisory(name, name=release.split()[0], events=[{"introduced": "0"}])
        for release, names, *_ in rows
        for name in names.split(", ")
    ]
    done = audit.run(audit.packed(*found))
    assert done.returncode == 0, done.stdout
    assert f"{len(found)} advisories, {len(found)} of them judged" in done.stdout
