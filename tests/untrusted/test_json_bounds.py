"""The bounds of a JSON text, known before it is parsed."""

import json
import time

import pytest

from fedimg.untrusted import json_bounds


def test_usual_texts_pass() -> None:
    json_bounds.refuse_unbounded(json.dumps({"images": [{"path": 'a "[[[[" b', "size": 5}] * 1000}))
    json_bounds.refuse_unbounded("[" * json_bounds.DEEPEST)
    json_bounds.refuse_unbounded(json.dumps("[" * 1000 + "\\"))


def test_deep_and_many_values_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_bounds, "DEEPEST", 5)
    monkeypatch.setattr(json_bounds, "MOST_VALUES", 20)
    with pytest.raises(ValueError, match="more than 5 deep"):
        json_bounds.refuse_unbounded("[" * 6 + "]" * 6)
    with pytest.raises(ValueError, match="more than 20 values"):
        json_bounds.refuse_unbounded(json.dumps([1] * 21))


@pytest.mark.parametrize("unit", ['\\"', '"', '"a', "[]"])
def test_each_character_is_looked_at_once(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_bounds, "MOST_VALUES", 10**9)

    def seconds(length: int) -> float:
        began = time.process_time()
        json_bounds.refuse_unbounded('"' + unit * length)
        return time.process_time() - began

    seconds(1000)
    # 64 times as long: by the square it would be 4096 times.
    assert seconds(64_000) < 64 * 10 * max(seconds(1000), 0.001)
