import errno
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedimg.aws.snapshots import SnapshotFailed
from fedimg.exceptions import (
    OUTPUT_TAIL,
    EC2ServiceException,
    EC2TestException,
    EC2UtilityException,
    exhausted,
)

FIELDS = {
    "image": "Fedora-Cloud-Base-28-1.1.x86_64",
    "region": "us-east-1",
    "step": "write",
    "request_id": "8a9e7c5e-0000-4000-8000-000000000000",
    "output": "curl: (22) The requested URL returned error: 404\n",
}
KINDS = [EC2ServiceException, EC2UtilityException, EC2TestException, SnapshotFailed]


@pytest.mark.parametrize("kind", KINDS)
def test_queue_gives_an_exception_back_whole(kind):
    error = pickle.loads(pickle.dumps(kind("download failed", **FIELDS)))
    assert type(error) is kind
    assert str(error) == str(kind("download failed", **FIELDS))
    assert {name: getattr(error, name) for name in FIELDS} == FIELDS
    assert error.problem == "download failed"


def test_fields_given_later_are_recorded_too():
    error = EC2ServiceException("no room")
    error.region, error.step = "eu-west-1", "copy"
    assert str(pickle.loads(pickle.dumps(error))) == "no room [eu-west-1, copy]"


def test_text_names_problem_place_and_request_id():
    text = str(EC2UtilityException("download failed", **FIELDS))
    for part in ("download failed", FIELDS["image"], "us-east-1", "write", FIELDS["request_id"]):
        assert part in text


def test_text_without_a_place_is_only_the_problem():
    assert str(EC2ServiceException("download failed")) == "download failed"


@given(st.text(alphabet=st.sampled_from("aé€𝄞"), min_size=1, max_size=40), st.integers(0, 7))
def test_output_keeps_its_last_32_kib_whatever_the_language(text, shift):
    output = "x" * shift + text * (2 * OUTPUT_TAIL // len(text))
    kept = EC2ServiceException("failed", output=output).output
    assert output.endswith(kept)
    assert OUTPUT_TAIL - 4 < len(kept.encode()) <= OUTPUT_TAIL


def test_short_output_is_kept_whole():
    assert EC2ServiceException("failed", output="ça\n" * 100).output == "ça\n" * 100


def test_undecodable_output_does_not_hide_the_failure():
    printed = b"\xff\xfeboot".decode(errors="surrogateescape")
    assert EC2ServiceException("failed", output=printed).output.endswith("boot")


def behind(reason: BaseException) -> Exception:
    """Return the text that an SDK, and then fedimg, make of a reason."""
    try:
        try:
            raise reason
        except BaseException as error:
            raise ConnectionError("could not connect") from error
    except ConnectionError:
        try:
            raise EC2ServiceException("refused")
        except EC2ServiceException as error:
            return error


@pytest.mark.parametrize(
    "reason",
    [
        MemoryError(),
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("can't start new thread"),
    ],
)
def test_lack_of_a_local_resource_is_distinguished_from_a_failed_job(reason):
    assert exhausted(reason)
    assert exhausted(behind(reason))


@pytest.mark.parametrize(
    "reason",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.ECONNREFUSED, "Connection refused"),
        RuntimeError("dictionary changed size during iteration"),
    ],
)
def test_other_errors_fail_the_job(reason):
    assert not exhausted(reason)
    assert not exhausted(behind(reason))
