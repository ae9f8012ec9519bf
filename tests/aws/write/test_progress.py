import pytest

from fedimg.aws.write import progress, utility_instance
from fedimg.aws.write.progress import WriteProgress
from tests.aws.clock import Clock

MB = 1_000_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_text_has_share_size_and_speed(clock: Clock) -> None:
    followed = WriteProgress(4 * 2**30)
    clock.now += 10
    assert followed.words(2 * 2**30) == "50% of 4 GiB written, 215 MB/s"


def test_speed_is_that_of_the_last_seconds(clock: Clock) -> None:
    followed = WriteProgress(10_000 * MB)
    for second in range(1, 61):
        clock.now += 1
        slow = 100 * MB * min(second, 30) + 10 * MB * max(0, second - 30)
        words = followed.words(slow)
    assert words.endswith("10 MB/s")


def test_first_text_has_a_speed_of_zero(clock: Clock) -> None:
    assert WriteProgress(MB).words(0) == "0% of 1 GiB written, 0 MB/s"


@pytest.mark.parametrize(
    ("size", "wanted", "iops", "throughput"),
    [
        (4, 125, 3000, 125),
        (4, 500, 3000, 500),
        (10, 1000, 4000, 1000),
        # As fast as so small a volume can be.
        (1, 2000, 3000, 750),
        (7, 2000, 3500, 875),
    ],
)
def test_volume_is_as_fast_as_its_size_allows(
    size: int, wanted: int, iops: int, throughput: int
) -> None:
    made = utility_instance._blank(size, throughput=wanted)
    assert (made["Iops"], made["Throughput"]) == (iops, throughput)
