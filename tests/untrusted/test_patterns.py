import threading
import time
from pathlib import Path

import pytest

from fedimg import config
from fedimg.exceptions import OUTPUT_TAIL
from fedimg.images import Architecture, RawImage
from fedimg.intake import image_selection
from fedimg.sources.lookup import LookupResult
from fedimg.untrusted import patterns


def image(name: str) -> RawImage:
    return RawImage(
        url=f"https://koji.example.org/{name}.raw.xz",
        architecture=Architecture.X86_64,
        build="Fedora-Cloud-1-1",
        source="build-1",
    )


def test_default_patterns_are_known() -> None:
    koji = config.Koji()
    for pattern in [*koji.name_patterns, *koji.exclude_patterns]:
        patterns.refuse_unmatchable(pattern)
    assert patterns.matches(koji.name_patterns[0], "Fedora-Cloud-Base-28-1.1.x86_64.raw.xz")
    assert not patterns.matches(koji.name_patterns[0], "Fedora-Clouds-28-1.1.x86_64.raw.xz")
    assert patterns.matches(koji.exclude_patterns[0], "Fedora-Cloud-Base-Vagrant-28.raw.xz")


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("^fedora$", "root\nfedora\nbin", True),
        ("^fedora$", "fedoras", False),
        ("(?i)FEDORA", "a fedora", True),
        ("", "", True),
        ("Grüße|ü{2}", "viele Grüße", True),
        (r"a|^b$", "c\nb", True),
        (r"\.raw\.xz$", "x.raw.xz", True),
    ],
)
def test_output_is_matched_line_by_line(pattern: str, text: str, matches: bool) -> None:
    patterns.refuse_unmatchable(pattern)
    assert patterns.matches(pattern, text) is matches


def test_matching_takes_time_in_the_order_of_the_text() -> None:
    patterns.matches("x*y", "")
    began = time.thread_time()
    # The most that a check's output has. An engine that begins anew at each character takes the
    # square of it, a second.
    assert not patterns.matches("x*y", "x" * OUTPUT_TAIL)
    assert time.thread_time() - began < 0.1


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(", "is not a regular expression of RE2's: missing \\)"),
        ("(?=a)b", "no look-around and no back-references"),
        (r"(a)\1", "no look-around and no back-references"),
        (r"a\Z", r"\\z in place of \\Z"),
        ("a{,3}", r"contains \{,3\}: write \{0,3\}"),
        ("((a{1000}){1000}){1000}", "is not a regular expression of RE2's"),
    ],
)
def test_pattern_that_cannot_be_matched_in_time_is_refused_at_the_start(
    tmp_path: Path, pattern: str, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=words):
        patterns.refuse_unmatchable(pattern)
    path = tmp_path / "fedimg.toml"
    path.write_text(f"[koji]\nexclude_patterns = ['{pattern}']\n")
    with pytest.raises(config.ConfigError, match=r"koji\.exclude_patterns\.0"):
        config.load(path)
    path.write_text(f"[[checks]]\nname = 'a'\ncommand = 'b'\noutput = '{pattern}'\n")
    with pytest.raises(config.ConfigError, match=r"checks\.0\.output"):
        config.load(path)
    assert capfd.readouterr() == ("", "")


def test_names_are_matched_by_several_threads_at_once() -> None:
    koji = config.Koji(name_patterns=["^Fedora-"], exclude_patterns=["x.raw.xz$"])
    images = (image("Fedora-1"), image("1-Fedora-1"), image("Fedora-x"))
    found = LookupResult("build:1", "releng", scratch=False, images=images)
    taken: list[list[RawImage]] = []
    threads = [
        threading.Thread(target=lambda: taken.append(image_selection.decide(found, koji).chosen))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken == [[images[0]]] * 8
