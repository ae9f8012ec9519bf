"""Parse an XML-RPC answer of an untrusted server within bounds of depth, number and time.

The standard library's Unmarshaller converts the values, and this module bounds its input. The
standard library's own parser accepts entity declarations, nesting of any depth, and millions of
attributes. tests/test_answer_memory.py measures the memory of the largest answers.
"""

from __future__ import annotations

import re
import time
import xmlrpc.client
from dataclasses import dataclass
from typing import Any
from xml.parsers import expat

from fedimg.exceptions import exhausted

# Bytes that are parsed between two checks of the time.
_PIECE = 64 * 1024
# The parser collects all attributes of a tag before a handler can count them: 16 MiB of them would
# take 400 MiB. A tag contains no "<", so that the search takes linear time.
_ATTRIBUTE = re.compile(rb"<[^\s<>/!?]+\s+[^\s<>/]")


class Malformed(Exception):
    """The answer is not valid XML-RPC, or exceeds the bounds; the text says which."""


@dataclass(frozen=True)
class Bounds:
    """The bounds of one answer: nesting depth and number of elements, and seconds of parsing.

    Koji nests values some ten deep, three elements each, and a page of its lists has some ten
    thousand elements. Each takes at most 100 bytes of memory.
    """

    depth: int = 100
    elements: int = 500_000
    seconds: float = 30.0


def value(document: bytes, bounds: Bounds) -> Any:
    """Return the value of an answer.

    Raises xmlrpc.client.Fault when the answer is a fault, and Malformed when it is invalid.
    """
    parser = _Parser(bounds)
    try:
        return parser.run(document)
    except (Malformed, xmlrpc.client.Fault):
        raise
    except expat.ExpatError as error:
        raise Malformed(f"it is not valid XML: {error}") from error
    except Exception as error:
        # The Unmarshaller raises any kind of error for an invalid date, number or structure.
        if exhausted(error):
            raise
        raise Malformed("it holds an invalid value") from error
    finally:
        parser.close()


class _Parser:
    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._target = xmlrpc.client.Unmarshaller(use_builtin_types=True)
        # expat passes it decoded text.
        self._target.xml("", None)
        self._parser = expat.ParserCreate("utf-8")
        self._parser.buffer_text = True
        self._parser.StartDoctypeDeclHandler = self._refuse_doctype
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._target.data
        self._depth = self._elements = 0
        self._deadline = time.monotonic() + bounds.seconds

    def run(self, document: bytes) -> Any:
        if _ATTRIBUTE.search(document):
            raise Malformed("a tag has an attribute, which XML-RPC does not allow")
        for start in range(0, len(document), _PIECE):
            self._parser.Parse(document[start : start + _PIECE], False)
            if time.monotonic() > self._deadline:
                raise Malformed(f"parsing it took longer than {self._bounds.seconds:g} s")
        self._parser.Parse(b"", True)
        values = self._target.close()
        if len(values) != 1:
            raise Malformed(f"it has {len(values)} values instead of one")
        return values[0]

    def close(self) -> None:
        """Remove the parser's handlers, which refer to this object.

        The cycle of references would keep all values in memory until Python next collects garbage,
        which depends on the number of objects, not on their size.
        """
        self._parser.StartDoctypeDeclHandler = None
        self._parser.StartElementHandler = None
        self._parser.EndElementHandler = None
        self._parser.CharacterDataHandler = None

    def _refuse_doctype(self, *_declaration: Any) -> None:
        raise Malformed("it declares a document type, which XML-RPC does not allow")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        self._elements += 1
        if self._depth > self._bounds.depth:
            raise Malformed(f"its values are nested more than {self._bounds.depth} elements deep")
        if self._elements > self._bounds.elements:
            raise Malformed(f"it has more than {self._bounds.elements} elements")
        self._target.start(tag, attributes)

    def _end(self, tag: str) -> None:
        self._depth -= 1
        self._target.end(tag)
