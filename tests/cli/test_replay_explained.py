"""`fedimg replay --explain ENTRY` names each file of an entry, and why it is left out."""

import json
from pathlib import Path

from fedimg.cli import replay_explained  # noqa: F401 (defines the command)
from lab.koji import Koji
from tests.cli.conftest import Run
from tests.intake.image_files import NAME, RELEASE, VERSION, files


def test_explain_names_each_file_with_the_fact_or_setting_that_decides(
    koji: Koji, run: Run, config: Path, tmp_path: Path
) -> None:
    made = files(tmp_path, arches=("x86_64", "aarch64", "s390x"))
    build = koji.add_build(NAME, VERSION, RELEASE, made)
    with config.open("a") as file:
        file.write(f'\n[koji]\nhub = "{koji.hub_url}"\ntopurl = "{koji.top_url}"\n')
        file.write('architectures = ["x86_64"]\n')
    answer = run("replay", "--explain", f"build:{build.id}", "--json")
    assert answer.exit_code == 0, answer.stderr
    told = {row["file"]: row for row in json.loads(answer.stdout)}
    x86, arm, s390x = (told[path.name] for (path,) in made.values())
    assert x86["decision"] == "not yet taken"
    assert arm["reason"] == "arm64 is not in koji.architectures"
    assert "s390x" in s390x["reason"]
    assert {arm["decision"], s390x["decision"]} == {"left out"}


def test_replay_needs_a_time_or_an_entry(run: Run) -> None:
    refused = run("replay")
    assert refused.exit_code == 2
    assert "give either --since WHEN or --explain ENTRY" in refused.stderr
