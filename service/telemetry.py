"""Prometheus metrics and JSON logs."""

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from enflow.service.protocol.status import Health, Stats

METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""The variable with the folder in which prometheus_client keeps the metrics of several processes; it is read when the
library is imported."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


log = structlog.get_logger("enflow")


class EngineMetrics(NamedTuple):
    """A function that returns the statistics of an engine, and the SHA-256 of its weights."""

    stats: Callable[[], Stats]
    sha256: str


class Telemetry:
    """The metrics of an application, in Prometheus registries of its own; of all its fronts where there are several.

    Attributes:
        requests: by method, path of the route such as "/sample", and HTTP status; 499 where the client left early.
        request_seconds: the time from the request to the end of the answer, by the path of the route.
    """

    def __init__(self) -> None:
        self.registry, self._engines = CollectorRegistry(), CollectorRegistry()
        self.requests = Counter(
            "enflow_requests", "HTTP requests", ["method", "route", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "enflow_request_seconds", "Time to answer", ["route"], buckets=_SECONDS, registry=self.registry
        )
        self.in_flight = Gauge(
            "enflow_requests_in_flight", "Requests being answered", registry=self.registry, multiprocess_mode="livesum"
        )
        self.molecules = Counter(
            "enflow_molecules", "Molecules by their outcome", ["kind", "outcome"], registry=self.registry
        )
        self.bonds = Counter(
            "enflow_bonds", "Bond inferences by method or failure", ["outcome"], registry=self.registry
        )
        self.bonds_seconds = Histogram(
            "enflow_bonds_seconds", "Time for the bonds of a molecule", buckets=_SECONDS, registry=self.registry
        )
        self.queue_seconds = Histogram(
            "enflow_queue_seconds", "Time of a request before its first step", buckets=_SECONDS, registry=self.registry
        )

    def watch(self, engines: Mapping[str, EngineMetrics]) -> None:
        """Export the statistics of engines, read at each scrape, by the names of their models."""
        self._engines.register(_Engines(engines))

    def exposition(self) -> bytes:
        """Return the metrics in the text format of Prometheus."""
        metrics = self.registry
        if METRICS_VARIABLE in os.environ:
            MultiProcessCollector(metrics := CollectorRegistry())  # type: ignore[no-untyped-call]
        return generate_latest(metrics) + generate_latest(self._engines)


async def log_health(engines: Mapping[str, Callable[[], Health]]) -> None:
    """Log every change of an engine's readiness with its reason; never return."""
    logged: dict[str, tuple[bool, str]] = {}
    while True:
        for model, health_of in engines.items():
            health = health_of()
            if (health.ready, health.reason) != logged.get(model):
                logged[model] = health.ready, health.reason
                log.info("engine", model=model, ready=health.ready, reason=health.reason)
        await asyncio.sleep(1)


_GAUGES = {
    "waiting": "Molecules that wait",
    "running": "Molecules that have begun",
    "occupied": "Rows of the fullest batch key on the device",
    "slots": "Rows of a batch key that the device takes at once",
    "requests": "Requests that are not finished",
    "queue_units": "Work in the queue, in the scheduler's units",
    "queue_limit": "Work that the queue takes",
    "queue_seconds": "Time that the queue will take",
    "memory_bytes": "Memory of the device in use",
}
_COUNTERS = {
    "steps": "Steps of the engine",
    "row_steps": "Steps of molecules: over enflow_engine_steps the mean batch",
    "nfe": "Evaluations of the velocity, per molecule",
    "step_seconds": "Time in steps",
    "memory_errors": "Steps that did not fit into memory",
    "restarts": "Restarts of the engine's process",
}


class _Engines(Collector):
    def __init__(self, engines: Mapping[str, EngineMetrics]) -> None:
        self._engines = engines

    def describe(self) -> Iterator[Metric]:
        return iter(())  # no statistics before the first scrape

    def collect(self) -> Iterator[Metric]:
        found = {name: engine.stats() for name, engine in self._engines.items()}
        for name, text in _GAUGES.items():
            gauge = GaugeMetricFamily(f"enflow_engine_{name}", text, labels=["model"])
            yield _with_values(gauge, {(model,): getattr(stats, name) for model, stats in found.items()})
        occupancy = GaugeMetricFamily("enflow_engine_occupancy", "Share of the slots in use", labels=["model"])
        yield _with_values(
            occupancy, {(model,): stats.occupied / max(stats.slots, 1) for model, stats in found.items()}
        )
        for name, text in _COUNTERS.items():
            counter = CounterMetricFamily(f"enflow_engine_{name}", text, labels=["model"])
            yield _with_values(counter, {(model,): getattr(stats, name) for model, stats in found.items()})
        for name in ("finished", "failed"):
            text = f"Molecules {name}, by kind or reason"
            family = CounterMetricFamily(f"enflow_engine_{name}", text, labels=["model", "of"])
            each = {model: getattr(stats, name) for model, stats in found.items()}
            yield _with_values(
                family, {(model, str(of)): n for model, counts in each.items() for of, n in counts.items()}
            )
        weights = InfoMetricFamily("enflow_model", "The weights", labels=["name"])
        for name, engine in self._engines.items():
            weights.add_metric([name], {"sha256": engine.sha256, "device": found[name].device})
        yield weights


Family = TypeVar("Family", GaugeMetricFamily, CounterMetricFamily)


def _with_values(family: Family, values: Mapping[tuple[str, ...], float]) -> Family:
    for labels, value in values.items():
        family.add_metric(list(labels), value)
    return family


def configure_logs(level: str) -> None:
    """Write all logs, those of libraries included, to standard error, one JSON object a line.

    Args:
        level: "debug", "info", "warning" or "error".
    """
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*processors, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processor=structlog.processors.JSONRenderer(),
            foreign_pre_chain=[*processors, structlog.processors.ExceptionRenderer(_name_only)],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(number, logging.INFO))


def _name_only(exc_info: Any) -> str:
    return str(getattr(exc_info[0], "__name__", exc_info[0]))  # a message may hold a piece of an upload
