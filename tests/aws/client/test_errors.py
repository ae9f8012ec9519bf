import errno

import pytest
from botocore.exceptions import (
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)
from botocore.parsers import ResponseParserError

from fedimg.aws.client.errors import code, explained, in_doubt, not_found
from fedimg.exceptions import (
    Cancelled,
    EC2ServiceException,
    EC2TestException,
    EC2UtilityException,
)

WHERE = {"image": "Fedora", "region": "eu-west-1", "step": "copy"}


def refusal(code: str, message: str = "", status: int = 400) -> ClientError:
    answer = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status, "RequestId": "8a9e7c5e"},
    }
    return ClientError(answer, "CopySnapshot")


def told(error: BaseException, kind=EC2ServiceException) -> EC2ServiceException:
    with (
        pytest.raises(EC2ServiceException) as caught,
        explained("copying", **WHERE, exception_type=kind),
    ):
        raise error
    return caught.value


def test_code_is_ec2s_own_and_empty_for_other_failures():
    assert code(refusal("InvalidSnapshot.NotFound")) == "InvalidSnapshot.NotFound"
    assert code(NoCredentialsError()) == code(ValueError()) == ""


@pytest.mark.parametrize(
    "name",
    [
        "InvalidSnapshot.NotFound",
        "InvalidAMIID.NotFound",
        "InvalidAMIID.Unavailable",
        "InvalidInstanceID.NotFound",
        "InvalidGroup.NotFound",
        "InvalidVolume.NotFound",
    ],
)
def test_resource_that_ec2_does_not_know_may_be_new(name):
    assert not_found(refusal(name))


@pytest.mark.parametrize(
    "name", ["InvalidAMIName.Duplicate", "Unavailable", "AuthFailure", "InvalidAMIID.Malformed"]
)
def test_other_refusals_are_not_about_what_is_unknown(name):
    assert not not_found(refusal(name))


def test_failure_without_a_refusal_is_not_about_what_is_unknown():
    assert not not_found(KeyError("InvalidSnapshot.NotFound"))


@pytest.mark.parametrize(
    "error",
    [
        refusal("RequestLimitExceeded", status=503),
        refusal("Throttling"),
        refusal("InternalError", status=500),
        refusal("Anything", status=502),
        ReadTimeoutError(endpoint_url="http://ec2"),
        EndpointConnectionError(endpoint_url="http://ec2"),
        ResponseParserError("not well-formed"),
    ],
    ids=repr,
)
def test_call_that_may_have_taken_effect_is_in_doubt(error):
    assert in_doubt(error)


@pytest.mark.parametrize(
    "error",
    [refusal("ResourceLimitExceeded"), refusal("AuthFailure", status=401), NoCredentialsError()],
    ids=repr,
)
def test_call_that_was_refused_is_in_no_doubt(error):
    assert not in_doubt(error)


def test_lack_of_local_files_leaves_no_doubt_about_the_call():
    error = EndpointConnectionError(endpoint_url="http://ec2")
    error.__context__ = OSError(errno.EMFILE, "Too many open files")
    assert not in_doubt(error)


def test_no_connection_is_in_doubt(account, clients, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    nowhere = type(clients)().ec2_once("us-east-1")
    with pytest.raises(Exception) as caught:
        nowhere.describe_regions()
    assert in_doubt(caught.value)
    assert "could not reach EC2" in str(told(caught.value))


def test_answer_of_another_server_becomes_the_steps_exception():
    assert "not well-formed" in str(told(ResponseParserError("not well-formed")))


def test_refusal_is_reported_with_ec2s_message_and_request_id(account, clients):
    with pytest.raises(ClientError) as caught:
        clients.ec2("us-east-1").describe_images(ImageIds=["ami-00000000000000000"])
    error = told(caught.value)
    for words in ("copying", "InvalidAMIID.NotFound", "does not exist", "Fedora", "eu-west-1"):
        assert words in str(error)
    assert error.request_id
    assert error.request_id in str(error)
    assert error.__cause__ is caught.value


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("OperationNotPermitted", "block public access"),
        ("ResourceLimitExceeded", "quota"),
        ("UnauthorizedOperation", "IAM"),
        ("AuthFailure", "credentials"),
        ("OptInRequired", "enable the region"),
    ],
)
def test_common_refusal_comes_with_advice(name, words):
    assert words in str(told(refusal(name, "No.")))


def test_unknown_ami_is_the_utility_ami_only_while_writing():
    unknown = refusal("InvalidAMIID.NotFound", "The image id does not exist")
    with (
        pytest.raises(EC2ServiceException, match="utility_ami"),
        explained("writing", image="Fedora", region="us-east-1", step="write"),
    ):
        raise unknown
    assert "utility_ami" not in str(told(unknown))


def test_call_that_an_ec2_lacks_is_named_with_its_answer():
    error = told(refusal("400", ""))
    assert "EC2 refused CopySnapshot with 400: no reason given" in str(error)
    assert "does not support the call" in str(error)
    assert (error.later, error.unknown) == (False, "")


def test_refusal_without_a_message_is_reported_by_its_code():
    bare = ClientError({"Error": {"Code": "Strange"}}, "CopySnapshot")
    assert "Strange" in str(told(bare))


@pytest.mark.parametrize("kind", [EC2ServiceException, EC2UtilityException, EC2TestException])
def test_refusal_becomes_the_steps_exception(kind):
    assert type(told(refusal("AuthFailure"), kind)) is kind


def test_failure_gets_the_image_region_and_step_that_it_lacks():
    failure = EC2TestException("a check failed", output="printed")
    assert told(failure) is failure
    assert (failure.image, failure.region, failure.step) == ("Fedora", "eu-west-1", "copy")


def test_region_that_a_failure_names_is_not_overwritten():
    assert told(EC2ServiceException("failed", region="us-east-1")).region == "us-east-1"


def test_failure_becomes_the_steps_exception_with_all_its_fields():
    failure = EC2ServiceException("no address", request_id="8a9e7c5e", output="printed")
    error = told(failure, EC2UtilityException)
    assert type(error) is EC2UtilityException
    assert (error.problem, error.output, error.request_id) == ("no address", "printed", "8a9e7c5e")
    assert error.__cause__ is failure


@pytest.mark.parametrize("error", [Cancelled(), ValueError("bug"), KeyboardInterrupt()])
def test_exceptions_that_are_not_about_aws_are_left_alone(error):
    with pytest.raises(type(error)), explained("copying", **WHERE):
        raise error


def test_success_raises_nothing():
    with explained("copying", **WHERE):
        pass
