"""No exception of a library reaches `fedimg status` in Python's words.

Follows fedimg/aws/client/errors.py, fedimg/exceptions.py.
"""

import pytest

from fedimg.aws.client.errors import FAILURES, explained
from fedimg.exceptions import EC2ServiceException, for_operator
from fedimg.store.store import Store
from tests.cli.conftest import X86, Run
from tests.untrusted.library_errors import MODULES, PYTHON, classes, made


def recorded(error: BaseException) -> str:
    """Return what a job's record has of an error, by the way that it takes from a step."""
    try:
        with explained("copy", image=X86.name, region="us-east-1", step="copy"):
            raise error
    except EC2ServiceException as failure:
        assert isinstance(error, FAILURES)
        return str(failure)
    except Exception as unforeseen:
        return for_operator(unforeseen)
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize("module", MODULES)
def test_status_has_no_words_of_python(run: Run, store: Store, x86_job: str, module: str) -> None:
    errors = [
        error
        for kind in classes(module)
        for error in made(kind)
        # No failure of a job: the worker ends.
        if not isinstance(error, MemoryError | StopIteration | StopAsyncIteration)
    ]
    texts = [recorded(error) for error in errors]
    for number, text in enumerate(texts[:: max(1, len(texts) // 40)]):
        store.set_region(x86_job, f"region-{number}", step="failed", error=text)
    shown = run("status", x86_job).stdout
    assert shown.count("\n") > 1
    assert not PYTHON.search(shown), PYTHON.search(shown)
    assert [text for text in texts if PYTHON.search(text)] == []
