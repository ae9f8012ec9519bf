from fedimg.aws.client.rate_limit import RateLimit


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def spent(throttle: RateLimit, clock: Clock, calls: int, region: str = "us-east-1") -> float:
    """Return how long so many calls take on an idle machine."""
    began = clock.now
    for _ in range(calls):
        throttle.wait(region)
    return clock.now - began


def test_calls_come_at_their_rate_behind_a_burst() -> None:
    clock = Clock()
    throttle = RateLimit(20, clock=lambda: clock.now, sleep=clock.sleep)
    assert spent(throttle, clock, 100) == 0
    assert round(spent(throttle, clock, 200), 6) == 10


def test_each_region_has_a_rate_of_its_own() -> None:
    clock = Clock()
    throttle = RateLimit(20, clock=lambda: clock.now, sleep=clock.sleep)
    spent(throttle, clock, 150)
    assert spent(throttle, clock, 100, "eu-west-1") == 0


def test_workers_share_the_rate() -> None:
    clock = Clock()
    throttle = RateLimit(20, clock=lambda: clock.now, sleep=clock.sleep)
    throttle.share(4)
    spent(throttle, clock, 25)
    assert round(spent(throttle, clock, 50), 6) == 10
    throttle.share(1)
    assert round(spent(throttle, clock, 20), 6) == 1
