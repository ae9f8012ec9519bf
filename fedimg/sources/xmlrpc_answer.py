"""Reading an XML-RPC answer of somebody who may mean harm, within bounds of depth, number and time.

The standard library's Unmarshaller gives the values their types; what it is fed is bounded here.
The standard library's parser is not: it takes declarations of entities, nesting of any depth, and
millions of attributes. tests/test_answer_memory.py measures what the largest answers cost.
"""

from __future__ import annotations

import re
import time
import xmlrpc.client
from dataclasses import dataclass
from typing import Any
from xml.parsers import expat

from fedimg.exceptions import exhausted

# In bytes: between two looks at the clock.
_PIECE = 64 * 1024
# The parser collects all attributes of a tag before anybody can count them: 16 MiB of them would
# take 400 MiB. A tag contains no "<", so that the search takes linear time.
_ATTRIBUTE = re.compile(rb"<[^\s<>/!?]+\s+[^\s<>/]")


class Malformed(Exception):
    """The answer is no XML-RPC, or more of it than is read; the text says which."""


@dataclass(frozen=True)
class Bounds:
    """The most that one answer may take: elements within each other, elements, and seconds.

    Koji's values lie within each other some ten deep, three elements each, and a page of its lists
    has some ten thousand elements. Each takes a tenth of a kilobyte of memory, or less.
    """

    depth: int = 100
    elements: int = 500_000
    seconds: float = 30.0


def value(document: bytes, bounds: Bounds) -> Any:
    """Return the one value of an answer.

    Raises xmlrpc.client.Fault when the answer is one, and Malformed whatever else it is.
    """
    reading = _Reading(bounds)
    try:
        return reading.run(document)
    except (Malformed, xmlrpc.client.Fault):
        raise
    except expat.ExpatError as error:
        raise Malformed(f"it is no XML: {error}") from error
    except Exception as error:
        # A date, a number or a structure that cannot be: the Unmarshaller raises nearly anything.
        if exhausted(error):
            raise
        raise Malformed("it holds a value that cannot be read") from error
    finally:
        reading.close()


class _Reading:
    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._target = xmlrpc.client.Unmarshaller(use_builtin_types=True)
        # What it is given is text already.
        self._target.xml("", None)
        self._parser = expat.ParserCreate("utf-8")
        self._parser.buffer_text = True
        self._parser.StartDoctypeDeclHandler = self._refuse_doctype
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._target.data
        self._depth = self._elements = 0
        self._until = time.monotonic() + bounds.seconds

    def run(self, document: bytes) -> Any:
        if _ATTRIBUTE.search(document):
            raise Malformed("a tag of it has an attribute, which XML-RPC has none of")
        for start in range(0, len(document), _PIECE):
            self._parser.Parse(document[start : start + _PIECE], False)
            if time.monotonic() > self._until:
                raise Malformed(f"reading it took longer than {self._bounds.seconds:g} s")
        self._parser.Parse(b"", True)
        values = self._target.close()
        if len(values) != 1:
            raise Malformed(f"it has {len(values)} values in place of one")
        return values[0]

    def close(self) -> None:
        """Let go of the handlers, which refer to this object.

        In a cycle with the parser it would keep all values until Python next looks for cycles, and
        that is after a number of objects, however large they are.
        """
        self._parser.StartDoctypeDeclHandler = None
        self._parser.StartElementHandler = None
        self._parser.EndElementHandler = None
        self._parser.CharacterDataHandler = None

    def _refuse_doctype(self, *_declaration: Any) -> None:
        raise Malformed("it declares a document type, which XML-RPC has none of")

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
