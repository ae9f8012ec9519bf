import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedimg.aws.tags import Labels, ami_name, read
from fedimg.images import AMIType, Virtualization

#: EC2 RegisterImage.
LEGAL = re.compile(r"[A-Za-z0-9()\[\] ./'@_-]{3,128}")

LABELS = Labels("prod", "build-7-Fedora", "Fedora")

images = st.from_regex(r"[A-Za-z0-9._+-]{1,193}", fullmatch=True)
kinds = st.builds(
    AMIType, st.sampled_from(Virtualization), st.sampled_from(["standard", "gp3"]), st.booleans()
)
regions = st.sampled_from(["us-east-1", "ap-southeast-2", "us-gov-east-1", "ap-northeast-3"])
numbers = st.integers(0, 99)


def test_name_is_made_of_image_type_region_and_number():
    kind = AMIType(Virtualization.HVM, "standard")
    assert (
        ami_name("Fedora-Cloud-Base-28-1.1.x86_64", kind, "us-east-2", 0)
        == "Fedora-Cloud-Base-28-1.1.x86_64-hvm-us-east-2-standard-0"
    )
    encrypted = AMIType(Virtualization.PARAVIRTUAL, "gp3", encrypted=True)
    assert ami_name("Fedora-28", encrypted, "us-east-2", 1) == (
        "Fedora-28-paravirtual-us-east-2-gp3-encrypted-1"
    )


@given(images, kinds, regions, numbers)
def test_every_name_is_valid_for_ec2(image, kind, region, number):
    assert LEGAL.fullmatch(ami_name(image, kind, region, number))


@given(images, kinds, regions, numbers)
def test_end_of_a_name_is_never_cut(image, kind, region, number):
    end = f"-{kind.virtualization}-{region}-{kind.storage}-{number}"
    assert ami_name(image, kind, region, number).endswith(end)


@given(
    st.sets(st.tuples(images.filter(lambda i: "+" not in i), kinds, regions, numbers), min_size=2)
)
def test_names_of_different_amis_differ(things):
    assert len({ami_name(*thing) for thing in things}) == len(things)


@given(st.text("ab", min_size=193, max_size=193), st.text("cd", min_size=2, max_size=9))
def test_long_names_with_the_same_beginning_stay_different(image, tail):
    kind = AMIType(Virtualization.HVM, "gp2")
    one, other = (ami_name(name, kind, "us-east-1", 0) for name in (image, image[:150] + tail))
    assert one != other


@given(st.text(), st.text(), st.lists(st.text()))
def test_tokens_are_valid_for_ec2(site, job, parts):
    token = Labels(site, job, "x").token(*parts)
    assert token.isascii()
    assert 1 <= len(token) <= 64


def test_tokens_are_equal_only_for_equal_parts():
    tokens = [
        LABELS.token("utility", "1"),
        LABELS.token("utility", "2"),
        LABELS.token("utility1"),
        LABELS.token("utilit", "y1"),
        LABELS.token(),
        replace(LABELS, site="stage").token("utility", "1"),
        replace(LABELS, job="build-8-Fedora").token("utility", "1"),
    ]
    assert LABELS.token("utility", "1") == tokens[0]
    assert len(set(tokens)) == len(tokens)


def test_everything_is_tagged_with_site_job_role_image_and_name():
    assert read(LABELS.tags("utility")) == {
        "fedimg:site": "prod",
        "fedimg:job": "build-7-Fedora",
        "fedimg:role": "utility",
        "fedimg:image": "Fedora",
        "Name": "fedimg utility Fedora",
    }
    assert read(LABELS.tags("ami", "Fedora-hvm"))["Name"] == "Fedora-hvm"


@pytest.mark.parametrize("change", [{"site": "stage"}, {"job": "build-8-Fedora"}])
def test_resources_of_another_site_or_job_are_not_own(change):
    assert LABELS.own(LABELS.tags("ami"))
    assert not LABELS.own(replace(LABELS, **change).tags("ami"))


def test_resources_without_tags_are_not_own():
    assert not LABELS.own(None)
    assert not LABELS.own([])


def test_filters_find_the_jobs_own_resources_by_role(origin, labels, make_volume):
    mine = make_volume(labels)
    make_volume(replace(labels, site=labels.site + "-other"))
    make_volume(replace(labels, job=labels.job + "-other"))

    def found(*role):
        volumes = origin.describe_volumes(Filters=labels.filters(*role))["Volumes"]
        return [volume["VolumeId"] for volume in volumes]

    assert found() == found("utility") == [mine]
    assert found("test") == []
