"""What the server counts, as Prometheus reads it.

In: events of the server. Out: the text of /metrics. Labels are of closed sets, never what a client
sent.
"""

from collections.abc import Callable, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.process_collector import ProcessCollector

disable_created_metrics()  # a third line for each counter that nobody reads

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_WAITS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_GAPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_TOTALS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = self._counter("requests", "Responses.", "route", "status")
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens read.")
        self.answer_tokens = self._counter("answer_tokens", "Tokens said.")
        self.answers = self._counter("answers", "Answers that ended.", "reason")
        self.rejected = self._counter("rejected", "Requests that were turned away.", "reason")
        self.lost_lines = self._counter("lost_log_lines", "Lines that the log could not take.")
        self.first_token = self._histogram("first_token_seconds", "To the first token.", _WAITS)
        self.between_tokens = self._histogram(
            "between_tokens_seconds", "From one piece of an answer to the next.", _GAPS
        )
        self.late_tokens = self._histogram(
            "late_tokens", "Tokens that came after their client was gone.", (0, 1, 2, 4, 8, 16, 32)
        )
        self.total = self._histogram("answer_seconds", "To the end of an answer.", _TOTALS)

    def watch(self, name: str, text: str, function: Callable[[], float]) -> None:
        """Adds a value that is asked for when it is read."""
        gauge = Gauge(f"chatlm_{name}", text, registry=self.registry)
        gauge.set_function(function)

    def text(self) -> bytes:
        """Returns everything, as Prometheus reads it."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"chatlm_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(f"chatlm_{name}", text, buckets=buckets, registry=self.registry)
