from __future__ import annotations

import subprocess
import sys

import pytest

# Texts of a few KiB come from the C library's heap, as the tables of dictionaries do. The last of
# them stays, so that the heap's end cannot go down by itself.
HEAP = """
from pathlib import Path
from fedimg.process.memory import settle

def resident():
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in x)
    return int(line.split()[1]) / 1024

texts = [bytes([each % 256]) * 4000 for each in range(16_000)]
last = texts.pop()
texts.clear()
before = resident()
settle()
print(before - resident())
"""


@pytest.mark.process
def test_free_memory_goes_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", HEAP], capture_output=True, text=True, check=True)
    assert float(done.stdout) > 40


@pytest.mark.process
def test_garbage_that_comes_later_is_still_collected() -> None:
    script = (
        "import gc, weakref; from fedimg.process.memory import settle; settle()\n"
        "class Node: pass\n"
        "node = Node(); node.itself = node; known = weakref.ref(node); del node\n"
        "gc.collect(); assert known() is None; assert gc.get_freeze_count() > 1000"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
