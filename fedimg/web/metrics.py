"""Export the measures of a site in the formats of Prometheus.

Everything is computed from the database when it is asked for: the numbers are right once, however
many workers there are, and a worker that is dead or hangs cannot hide itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from fedimg.store.heartbeats import SILENT_SECONDS, WORKER
from fedimg.store.measures import RUNS, Measures, Waiting, measure
from fedimg.store.reader import Reader
from fedimg.store.store import StoreError
from fedimg.untrusted.quoting import one_line

#: Quantiles of the durations of steps.
_QUANTILES = (0.5, 0.9, 1.0)
#: Most characters of a label's value, and most steps that are told apart.
_LABEL, _MOST_STEPS = 100, 60


def exposition(reader: Reader, accept: str) -> tuple[bytes, str]:
    """Return the metrics and their content type, in the format that a client accepts.

    When the database cannot be read, the metric `fedimg_database_readable` is 0, and the only one.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Site(reader))
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):
        # A version that is no number: the library raises where it could ignore it.
        encode, content_type = choose_encoder("")
    return encode(registry), content_type


class _Site(Collector):
    """Reads the measures once, and yields them as families of metrics."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registering reads nothing."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        try:
            measures = self._reader.read(measure)
        except StoreError:
            measures = None
        yield _gauge(
            "database_readable",
            "Whether the database can be read; when 0, no other metric is there.",
            float(measures is not None),
        )
        if measures is not None:
            yield from _families(measures)


def _families(measures: Measures) -> Iterator[Metric]:
    yield _by("jobs", "Jobs, by state.", ("state",), _one(measures.jobs))
    yield _age(
        measures, "oldest_live_job", "the present run of the oldest live job was queued", "live"
    )
    yield _step_durations(measures.steps)
    yield _gauge("step_duration_runs", "Runs over which step durations are taken, at most.", RUNS)
    yield _gauge("outbox_messages", "Messages that a bus has not confirmed.", measures.outbox.count)
    yield _gauge(
        "parked_messages",
        "Messages that a bus refuses; an operator resends or drops them.",
        measures.parked,
    )
    yield _age(measures, "oldest_outbox_message", "the oldest such message was written", "outbox")
    yield _by(
        "heartbeat_timestamp_seconds",
        "When a process last said that it works.",
        ("kind", "name"),
        {(each.kind, each.name): each.at for each in measures.processes},
    )
    yield _by(
        "last_bus_message_timestamp_seconds",
        "When a hub or consumer last received a message, of any content.",
        ("kind", "name"),
        {
            (each.kind, each.name): each.heard
            for each in measures.processes
            if each.heard is not None
        },
    )
    fresh = [each for each in measures.processes if measures.now - each.at < SILENT_SECONDS]
    workers = sum(each.kind == WORKER for each in fresh)
    lately = f"that said in the last {SILENT_SECONDS:g} s that they work."
    yield _gauge("workers", f"Workers {lately}", workers)
    # Always there, unlike the time of a process that was silent for a day, or that never ran.
    yield _gauge("listeners", f"Hubs and consumers {lately}", len(fresh) - workers)
    yield _by(
        "last_listing_timestamp_seconds",
        "When a list of Koji or of a location of composes was last read to its end.",
        ("list",),
        _one(measures.listed),
    )
    yield _gauge(
        "deferred_entries", "Entries that wait for an answer of their source.", measures.deferred
    )
    yield _by(
        "region_away_since_timestamp_seconds",
        "When a region that is away became so; regions that answer are not there.",
        ("region",),
        _one(measures.away),
    )
    yield _gauge("regions_away", "Regions that are away.", len(measures.away))
    yield _by(
        "ec2_waits", "Live jobs that wait for EC2 in a region.", ("region",), _one(measures.waits)
    )
    yield from _record(measures)
    yield _by(
        "changes_pending",
        "Changes of AMIs that are not finished: jobs whose AMIs a region has still to change.",
        ("region", "change"),
        measures.changes,
    )
    yield _by(
        "last_publication_timestamp_seconds",
        "When an image of a release and architecture last became public in a region.",
        ("release", "arch"),
        measures.published,
    )


def _record(measures: Measures) -> Iterator[Metric]:
    """Yield what the last comparisons of the record with EC2 found."""
    regions = measures.regions
    yield _by(
        "differences",
        "Differences between record and EC2 at the last comparison of a region.",
        ("region",),
        {(each.region,): each.differences for each in regions},
    )
    yield _by(
        "verification_timestamp_seconds",
        "When the record was last compared with EC2, or could not be.",
        ("region",),
        {(each.region,): each.at for each in regions},
    )
    yield _by(
        "verification_failed",
        "Whether the last comparison of a region failed.",
        ("region",),
        {(each.region,): float(each.failed) for each in regions},
    )
    yield _by(
        "public_amis",
        "Public AMIs of the site at the last comparison.",
        ("region",),
        {(each.region,): each.public_amis for each in regions if each.public_amis is not None},
    )
    yield _by(
        "public_amis_quota",
        "The account's quota of public AMIs at the last comparison.",
        ("region",),
        {(each.region,): each.quota for each in regions if each.quota is not None},
    )


def _step_durations(steps: Mapping[str, list[float]]) -> Metric:
    """Return quantiles as a gauge.

    A histogram or summary of Prometheus counts up for ever, and the database forgets old steps.
    """
    values: dict[tuple[str, ...], float] = {}
    for step in sorted(steps)[:_MOST_STEPS]:
        durations = sorted(steps[step])
        for quantile in _QUANTILES:
            # The nearest rank: a duration that a step really had.
            rank = max(1, math.ceil(quantile * len(durations)))
            values[step, f"{quantile:g}"] = durations[rank - 1]
    return _by(
        "step_duration_seconds",
        f"Durations of steps in the last {RUNS} runs that ended: the median, the 90th percentile, "
        "the longest.",
        ("step", "quantile"),
        values,
    )


def _age(measures: Measures, name: str, what: str, which: str) -> Metric:
    waiting: Waiting = getattr(measures, which)
    age = 0.0 if waiting.oldest is None else max(0.0, measures.now - waiting.oldest)
    return _gauge(f"{name}_age_seconds", f"Seconds since {what}; 0 without one.", age)


def _one(values: Mapping[str, float]) -> dict[tuple[str, ...], float]:
    return {(name,): value for name, value in values.items()}


def _gauge(name: str, help: str, value: float) -> Metric:
    return GaugeMetricFamily(f"fedimg_{name}", help, value=value)


def _by(name: str, help: str, labels: tuple[str, ...], values: Mapping[Any, float]) -> Metric:
    family = GaugeMetricFamily(f"fedimg_{name}", help, labels=labels)
    for key, value in sorted(values.items()):
        family.add_metric([one_line(each, _LABEL) for each in key], value)
    return family
