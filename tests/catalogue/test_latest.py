"""The newest public image of each edition.

Follows fedimg/catalogue/documents.py, fedimg/catalogue/record.py, fedimg/store/publications.py.
"""

from __future__ import annotations

from collections.abc import Callable

from fedimg.catalogue.documents import Latest
from fedimg.catalogue.latest import LatestFinder, newest_first
from fedimg.store.publications import Publications
from tests.catalogue.conftest import FURTHER, ORIGIN, TYPES, Site


def latest(site: Site) -> list[Latest]:
    publications = Publications(site.store)
    finder = LatestFinder()
    for job in publications.jobs():
        finder.add(job, publications.amis([job.job])[job.job])
    return finder.latest()


def test_build_decides_and_not_the_time_of_publication(site: Site) -> None:
    site.publish(site.build(12))
    site.publish(site.build(9))
    assert {each.build for each in latest(site)} == {"Fedora-Cloud-Base-43-1.12"}


def test_date_and_number_of_a_compose_decide(site: Site) -> None:
    site.publish(site.compose("20261101.10"))
    site.publish(site.compose("20261101.9"))
    site.publish(site.compose("20261031.11"))
    assert {each.build for each in latest(site)} == {"Fedora-Cloud-43-20261101.10"}


def test_each_release_architecture_type_and_region_has_its_newest(site: Site) -> None:
    site.publish(site.build(1))
    site.publish(site.build(2, arch="arm64"), types=TYPES[:1])
    site.publish(site.build(3, release="44"), [ORIGIN])
    newest = site.publish(site.build(4), [ORIGIN], TYPES[:1])
    found = {(each.release, each.architecture, each.virtualization): each for each in latest(site)}
    assert list(found) == [
        ("44", "x86_64", "hvm"),
        ("44", "x86_64", "paravirtual"),
        ("43", "arm64", "hvm"),
        ("43", "x86_64", "hvm"),
        ("43", "x86_64", "paravirtual"),
    ]
    of_43 = found["43", "x86_64", "hvm"]
    # The newest image has not reached the further region.
    assert of_43.regions[ORIGIN].ami == newest[0].id
    assert of_43.regions[FURTHER].image == "Fedora-Cloud-Base-43-1.1.x86_64"
    assert of_43.image == "Fedora-Cloud-Base-43-1.4.x86_64"
    assert of_43.series == "Fedora-Cloud-Base-43"


def test_scratch_builds_are_never_the_newest(site: Site) -> None:
    site.publish(site.build(1))
    site.publish(site.scratch(99))
    assert {each.build for each in latest(site)} == {"Fedora-Cloud-Base-43-1.1"}


def test_scratch_builds_have_lines_of_their_own_where_the_site_says_so(site: Site) -> None:
    site.publish(site.build(1))
    site.publish(site.scratch(99))
    site.publish(site.scratch(7))
    publications = Publications(site.store)
    finder = LatestFinder(("build", "compose", "task", "url"))
    for job in publications.jobs():
        finder.add(job, publications.amis([job.job])[job.job])
    by_kind = {each.kind: each for each in finder.latest()}
    assert by_kind["build"].image == "Fedora-Cloud-Base-43-1.1.x86_64"
    # The last published one, as tasks have no order that means anything.
    assert by_kind["task"].image == "Fedora-Cloud-Base-43-1.7.x86_64"
    assert (by_kind["task"].release, by_kind["task"].series) == ("43", "Fedora-Cloud-Base-43")


def test_withdrawn_image_gives_its_place_to_the_one_before(
    site: Site, withdraw: Callable[..., None]
) -> None:
    site.publish(site.build(1))
    bad = site.build(2)
    site.publish(bad)
    withdraw(bad.job, reason="it does not boot", replacement=None)
    assert {each.build for each in latest(site)} == {"Fedora-Cloud-Base-43-1.1"}


def test_releases_are_ordered_from_the_newest() -> None:
    releases = ["9", "43", None, "Rawhide", "10.1", "10"]
    assert sorted(releases, key=newest_first) == ["Rawhide", "43", "10.1", "10", "9", None]
