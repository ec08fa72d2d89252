"""What the service tells about itself: Prometheus metrics and JSON logs."""

import asyncio
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from service.work import Health, Stats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


log = structlog.get_logger("enflow")


class Telemetry:
    """The counters of one application, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "enflow_requests", "HTTP requests", ["method", "route", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "enflow_request_seconds", "Time to answer", ["route"], buckets=_SECONDS, registry=self.registry
        )
        self.in_flight = Gauge("enflow_requests_in_flight", "Requests being answered", registry=self.registry)
        self.molecules = Counter(
            "enflow_molecules", "Molecules by what came of them", ["kind", "outcome"], registry=self.registry
        )
        self.bonds = Counter(
            "enflow_bonds", "Bond inferences by method or failure", ["outcome"], registry=self.registry
        )
        self.bonds_seconds = Histogram(
            "enflow_bonds_seconds", "Time for the bonds of a molecule", buckets=_SECONDS, registry=self.registry
        )
        self.queue_seconds = Histogram(
            "enflow_queue_seconds", "Time of a work before its first step", buckets=_SECONDS, registry=self.registry
        )

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request; status 0 = the client went away before an answer."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def watch(self, stats: Callable[[], Stats], model: dict[str, str]) -> None:
        """Show the engine's statistics as of each scrape, and which model it runs."""
        self.registry.register(_Engine(stats, model))

    def exposition(self) -> bytes:
        """The metrics as Prometheus reads them."""
        return generate_latest(self.registry)


async def tell_health(look: Callable[[], Health]) -> None:
    """Log whenever the engine becomes ready, or is no longer so, and why; it never returns."""
    told = None
    while True:
        health = look()
        if (health.ready, health.reason) != told:
            told = health.ready, health.reason
            log.info("engine", ready=health.ready, reason=health.reason)
        await asyncio.sleep(1)


_GAUGES = {
    "waiting": "Molecules that wait",
    "running": "Molecules on the device",
    "slots": "Molecules that the device takes at once",
    "works": "Works that are not done",
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
    "restarts": "Restarts of the engine's process",
}


class _Engine(Collector):
    def __init__(self, stats: Callable[[], Stats], model: dict[str, str]) -> None:
        self._stats = stats
        self._model = model

    def describe(self) -> Iterator[Metric]:
        return iter(())  # nothing is computed before the first scrape

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        for name, text in _GAUGES.items():
            yield GaugeMetricFamily(f"enflow_engine_{name}", text, value=getattr(stats, name))
        yield GaugeMetricFamily(
            "enflow_engine_occupancy", "Share of the slots in use", value=stats.running / max(stats.slots, 1)
        )
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(f"enflow_engine_{name}", text, value=getattr(stats, name))
        for name, counts in (("finished", stats.finished), ("failed", stats.failed)):
            family = CounterMetricFamily(f"enflow_engine_{name}", f"Molecules {name}, by kind or reason", labels=["of"])
            for key, count in counts.items():
                family.add_metric([str(key)], count)
            yield family
        yield InfoMetricFamily("enflow_model", "The weights", value={**self._model, "device": stats.device})


def configure_logs(level: str) -> None:
    """One JSON object per line on standard error; the libraries' logs as well, without their arguments' contents."""
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
            foreign_pre_chain=[*processors, structlog.processors.ExceptionRenderer(_no_message)],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(number, logging.INFO))


def _no_message(exc_info: Any) -> str:
    return str(getattr(exc_info[0], "__name__", exc_info[0]))  # a message may hold a piece of an upload
