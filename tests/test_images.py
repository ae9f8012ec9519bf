from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedimg.aws.tags import ami_name
from fedimg.images import AMI, AMIType, Architecture, RawImage, Virtualization
from fedimg.records import as_record, from_record

URL = "https://kojipkgs.example.org/work/tasks/65/10410065/Fedora-Cloud-Base-28-1.1.x86_64.raw.xz"
IMAGE = RawImage(URL, Architecture.X86_64, "Fedora-Cloud-Base-28-1.1", "task-10410065")

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,150}", fullmatch=True)
sources = st.from_regex(r"(build|task)-[1-9][0-9]{0,9}", fullmatch=True)
checksums = st.from_regex(r"md5:[0-9a-f]{32}|sha1:[0-9a-f]{40}|sha256:[0-9a-f]{64}", fullmatch=True)
raw_images = st.builds(
    RawImage,
    url=names.map(lambda name: f"http://koji.example.org/work/{name}.raw.xz"),
    architecture=st.sampled_from(Architecture),
    build=names,
    source=sources,
    size=st.none() | st.integers(min_value=1, max_value=2**40),
    checksum=st.none() | checksums,
)


def test_name_and_file_name_come_from_the_url():
    assert IMAGE.file_name == "Fedora-Cloud-Base-28-1.1.x86_64.raw.xz"
    assert IMAGE.name == "Fedora-Cloud-Base-28-1.1.x86_64"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "Fedora.raw.xz",
        "file:///etc/Fedora.raw.xz",
        "ftp://koji.example.org/Fedora.raw.xz",
        "https:///Fedora.raw.xz",
        "https://[::1/Fedora.raw.xz",
        "https://koji.example.org/Fedora.qcow2",
        "https://koji.example.org/Fedora.raw.xz/",
        "https://koji.example.org/.raw.xz",
        "https://koji.example.org:99999/Fedora.raw.xz",
        "https://user:secret@koji.example.org/Fedora.raw.xz",
        "https://koji.example.org/Fedora.raw.xz?signature=secret",
        "https://koji.example.org/Fedora.raw.xz#top",
        "https://koji.example.org/?x=Fedora.raw.xz",
        "https://koji.example.org/Fedora$(id).raw.xz",
        "https://koji.example.org/Fedora%0a.raw.xz",
        "https://koji.example.org/Fedora;id.raw.xz",
        "https://koji.example.org/a b/Fedora.raw.xz",
        "https://koji.example.org/Fed\nora.raw.xz",
        "https://koji.example.org/Fedora.raw.xz\n",
        "https://koji.example.org/\x00/Fedora.raw.xz",
        "https://koji.example.org/Fédora/Fedora.raw.xz",
        "https://koji.example.org/" + "F" * 200 + ".raw.xz",
    ],
)
def test_url_that_koji_never_makes_is_refused(url):
    with pytest.raises(ValueError):
        replace(IMAGE, url=url)
    with pytest.raises(ValueError):
        RawImage.at(url, Architecture.X86_64, None)


@pytest.mark.parametrize("what", ["build", "source"])
@pytest.mark.parametrize("value", ["", "a/b", "a b", "a\n", "$(id)", "é", "a" * 201])
def test_name_that_koji_never_makes_is_refused(what, value):
    with pytest.raises(ValueError, match=what):
        replace(IMAGE, **{what: value})


@pytest.mark.parametrize("size", [0, -1])
def test_size_that_is_not_positive_is_refused(size):
    with pytest.raises(ValueError, match="invalid size"):
        replace(IMAGE, size=size)


@pytest.mark.parametrize(
    "checksum",
    [
        "",
        ":",
        "crc32:",
        "crc32:00000000",
        "sha256",
        "sha256:",
        "sha256:" + "0" * 63,
        "sha256:" + "0" * 65,
        "sha256:" + "A" * 64,
        "sha256:" + "0" * 64 + "\n",
        "SHA256:" + "0" * 64,
        "md5:" + "0" * 40,
        "0" * 64,
    ],
)
def test_invalid_checksum_is_refused(checksum):
    with pytest.raises(ValueError, match="checksum"):
        replace(IMAGE, checksum=checksum)


@given(raw_images)
def test_image_survives_json(image):
    assert from_record(RawImage, as_record(image)) == image


@pytest.mark.parametrize("written", ["^", "%5E", "%5e"])
def test_name_that_rpm_allows_is_the_same_however_its_address_is_written(written: str) -> None:
    url = f"https://koji.example/44~rc1/Fedora-44~rc1-1{written}git5.x86_64.raw.xz"
    image = RawImage.at(url, Architecture.X86_64, None)
    assert image.name == image.build == "Fedora-44~rc1-1^git5.x86_64"
    assert "^" not in image.url
    assert ami_name(image.name, AMIType.parse("hvm-gp2"), "us-east-1", 0) == (
        "Fedora-44-rc1-1-git5.x86_64-hvm-us-east-1-gp2-0"
    )


@pytest.mark.parametrize("name", ["~a", "^a", "a%2F..%2Fb", "%2e%2e%2fb", "a%00", "a%20b", "a%"])
def test_name_with_other_characters_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="does not end in a file name|is not a name"):
        RawImage.at(f"https://koji.example/{name}.raw.xz", Architecture.X86_64, None)


def test_job_is_named_by_its_koji_source_and_file():
    assert IMAGE.job == "task-10410065-Fedora-Cloud-Base-28-1.1.x86_64"


def test_same_file_of_another_build_is_another_job():
    assert replace(IMAGE, source="task-10410066").job != IMAGE.job


def test_same_file_from_a_mirror_is_the_same_job():
    mirrored = replace(IMAGE, url=URL.replace("kojipkgs", "mirror"), size=5)
    assert mirrored.job == IMAGE.job


def test_uploaded_urls_are_jobs_of_their_own():
    one = RawImage.at(URL, Architecture.X86_64, None)
    other = RawImage.at(URL.replace("kojipkgs", "mirror"), Architecture.X86_64, None)
    assert one.job == RawImage.at(URL, Architecture.X86_64, "md5:" + "0" * 32).job
    assert len({one.job, other.job, IMAGE.job}) == 3


def test_every_job_fits_in_a_tag():
    # EC2 keeps 256 characters of a tag's value, and what a job made is found again by its job.
    url = "https://koji.example.org/" + "F" * 193 + ".raw.xz"
    assert len(replace(IMAGE, url=url, source="build-" + "9" * 19).job) <= 256
    with pytest.raises(ValueError, match="more than 256 characters"):
        replace(IMAGE, url=url, source="b" * 200)


def test_kojis_names_of_architectures_become_ec2s():
    assert Architecture.from_koji("aarch64") is Architecture.ARM64
    assert Architecture.from_koji("x86_64") is Architecture.X86_64


@pytest.mark.parametrize("name", ["i386", "ppc64le", "s390x", "armhfp", "", "noarch"])
def test_architecture_that_ec2_cannot_run_is_refused(name):
    with pytest.raises(ValueError):
        Architecture.from_koji(name)


@pytest.mark.parametrize("virtualization", Virtualization)
@pytest.mark.parametrize("volume_type", ["standard", "gp2", "gp3"])
@pytest.mark.parametrize("encrypted", [False, True])
def test_ami_type_is_read_as_it_is_written(virtualization, volume_type, encrypted):
    kind = AMIType(virtualization, volume_type, encrypted)
    assert AMIType.parse(str(kind)) == kind


def test_parts_of_an_ami_type_stand_for_all_types_that_have_them():
    kind = AMIType(Virtualization.HVM, "gp3", encrypted=True)
    assert str(kind) == "hvm-gp3-encrypted"
    assert kind.names == {"hvm-gp3-encrypted", "hvm", "gp3", "encrypted"}
    assert AMIType(Virtualization.HVM, "gp3").names == {"hvm-gp3", "hvm", "gp3"}
    assert sorted([kind, AMIType(Virtualization.HVM, "gp3")])[1] == kind


@pytest.mark.parametrize(
    "text", ["", "hvm", "hvm-", "xen-gp2", "gp2", "hvm-io1", "hvm-gp2-0", "hvm-encrypted"]
)
def test_unknown_ami_type_is_refused(text):
    with pytest.raises(ValueError):
        AMIType.parse(text)


@pytest.mark.parametrize("encrypted", [False, True])
def test_ami_survives_json(encrypted):
    kind = AMIType(Virtualization.HVM, "gp3", encrypted)
    ami = AMI("ami-0123456789abcdef0", "Fedora", "us-east-1", kind, "snap-0123456789abcdef0")
    assert from_record(AMI, as_record(ami)) == ami


def test_file_that_was_replaced_behind_an_upload_is_not_the_image_that_was_uploaded() -> None:
    built, uploaded = (
        replace(IMAGE, size=5),
        replace(RawImage.at(URL, Architecture.X86_64, None), size=5),
    )
    assert [built.other_than(5), uploaded.other_than(5)] == [None, None]
    assert replace(IMAGE, size=None).other_than(7) is None
    assert "has 7 bytes, but Koji says 5: it is not the file" in str(built.other_than(7))
    said = str(uploaded.other_than(7))
    assert "has 7 bytes, but had 5 when it was uploaded" in said
    assert "run 'fedimg upload' again" in said
