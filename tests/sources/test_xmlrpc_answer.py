"""XML-RPC answers within bounds; each bound is tried by a small one and a harmless text."""

from __future__ import annotations

import contextlib
import gc
import xmlrpc.client
from datetime import datetime
from typing import Any

import pytest

from fedimg.sources.xmlrpc_answer import Bounds, Malformed, value

BOUNDS = Bounds(depth=30, elements=200, seconds=30)


def answer(inner: str, before: str = "") -> bytes:
    whole = f"<methodResponse><params><param>{inner}</param></params></methodResponse>"
    return f"<?xml version='1.0'?>{before}{whole}".encode()


def nested(levels: int) -> str:
    return "<value><array><data>" * levels + "</data></array></value>" * levels


@pytest.mark.parametrize(
    "said",
    [
        None,
        True,
        5,
        2**31 - 1,
        1.5,
        "a<&>\u20ac",
        b"bytes",
        [],
        [[1], {"a": [None]}],
        {"a": {"b": 1}},
    ],
)
def test_values_are_parsed(said: Any) -> None:
    document = xmlrpc.client.dumps((said,), methodresponse=True, allow_none=True).encode()
    assert value(document, BOUNDS) == said


def test_blanks_within_tags_are_no_attributes() -> None:
    assert value(
        answer("<value ><string\n>a b = 'c' &lt;d e='f'></string ></value\t>"), BOUNDS
    ) == ("a b = 'c' <d e='f'>")


def test_dates_are_parsed() -> None:
    then = datetime(2026, 11, 20, 5, 0, 1)
    assert value(xmlrpc.client.dumps((then,), methodresponse=True).encode(), BOUNDS) == then


def test_fault_is_raised() -> None:
    document = xmlrpc.client.dumps(xmlrpc.client.Fault(1000, "no"), methodresponse=True).encode()
    with pytest.raises(xmlrpc.client.Fault) as caught:
        value(document, BOUNDS)
    assert (caught.value.faultCode, caught.value.faultString) == (1000, "no")


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (answer("<value/>", "<!DOCTYPE methodResponse>"), "document type"),
        (answer("<value>&a;</value>", "<!DOCTYPE m [<!ENTITY a 'a'>]>"), "document type"),
        (answer('<value type="int">5</value>'), "attribute"),
        (answer("<value\n a = '>'/>"), "attribute"),
        (answer("<param><value />5</param><m:n\tx:y=''></m:n>"), "attribute"),
        (answer(nested(10)), "nested more than 30 elements deep"),
        (answer(f"<value><array><data>{'<value/>' * 200}</data></array></value>"), "than 200 elem"),
        (answer("<value><int>five</int></value>"), "invalid value"),
        (answer("<value><int/></value>"), "invalid value"),
        (
            answer("<value><dateTime.iso8601>20269999T99:99:99</dateTime.iso8601></value>"),
            "invalid value",
        ),
        (answer("<value><boolean>2</boolean></value>"), "invalid value"),
        (
            answer("<value><struct><member><name>a</name></member></struct></value>"),
            "invalid value",
        ),
        (answer("<value/><value/>"), "2 values instead of one"),
        (answer("").replace(b"params", b"fault"), "invalid value"),
        (b"<html>a proxy's page</html>", "invalid value|0 values"),
        (b"\xff\xfe", "not valid XML"),
        (b"", "not valid XML"),
    ],
)
def test_invalid_document_is_refused_with_the_reason(document: bytes, words: str) -> None:
    with pytest.raises(Malformed, match=words):
        value(document, BOUNDS)


@pytest.mark.parametrize(
    "document", [answer("<value>a</value>"), answer("<value/><value/>"), b"<a>"]
)
def test_memory_of_an_answer_is_freed(document: bytes) -> None:
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(Malformed):
            value(document, BOUNDS)
        kept = [each for each in gc.get_objects() if type(each).__module__ == Bounds.__module__]
        assert [each for each in kept if not isinstance(each, Bounds)] == []
    finally:
        gc.enable()


def test_parsing_is_ended_at_its_time_limit() -> None:
    with pytest.raises(Malformed, match="longer than 0 s"):
        value(answer("<value/>"), Bounds(seconds=0))


def test_values_as_deep_as_koji_has_are_read() -> None:
    said: Any = 1
    for _ in range(25):
        said = {"within": said} if isinstance(said, list) else [said]
    document = xmlrpc.client.dumps((said,), methodresponse=True).encode()
    assert value(document, Bounds()) == said
