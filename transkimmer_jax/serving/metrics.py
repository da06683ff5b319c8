"""Numbers for Prometheus, under the names and with the buckets of text-embeddings-inference, and ours beside them."""

import re

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from transkimmer_jax.inference.predictions import Predictions
from transkimmer_jax.serving.models import ServedModel

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST
_SECONDS = tuple(1e-5 * 1.5**power for power in range(1, 36))
_SIZES = tuple(float(2**power) for power in range(18))
_TOTAL = re.compile(r"^((?:# (?:HELP|TYPE) )?\w+)_total(?=[ {])", re.MULTILINE)
_PARTS = ("", "tokenization_", "queue_", "inference_")


class Metrics:
    """The numbers of one server."""

    def __init__(self) -> None:
        prometheus_client.disable_created_metrics()
        self._registry = CollectorRegistry()

        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(name, meaning, labels, registry=self._registry)

        def histogram(name: str, meaning: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
            return Histogram(name, meaning, buckets=buckets, registry=self._registry)

        self.count = counter("te_request_count", "Requests, of one text or several.", "method")
        self.success = counter("te_request_success", "Requests that were answered.", "method")
        self.failure = counter("te_request_failure", "Requests that were refused or failed.", "err")
        self.lengths = histogram("te_request_input_length", "Tokens of a text.", _SIZES)
        self.durations = [
            histogram(f"te_request_{part}duration", f"Seconds of {part.removesuffix('_') or 'the whole'}, of a request.") for part in _PARTS
        ]
        self.routes = {
            route: (
                counter(f"te_{route}_count", f"Texts of requests to {route}."),
                counter(f"te_{route}_success", f"Texts of requests to {route} that were answered."),
                [
                    histogram(f"te_{route}_{part}duration", f"Seconds of {part.removesuffix('_') or 'the whole'}, of {route}.")
                    for part in _PARTS
                ],
            )
            for route in ("embed", "predict")
        }
        self.queue_size = Gauge("te_queue_size", "Texts that wait for the engine.", registry=self._registry)
        self.batch_texts = histogram("te_batch_next_size", "Texts of a batch.", _SIZES)
        self.batch_tokens = histogram("te_batch_next_tokens", "Tokens of a batch.", _SIZES)
        self.tokens_in = counter("transkimmer_tokens_in", "Tokens that were read.", "model")
        self.tokens_computed = counter("transkimmer_tokens_computed", "Tokens that layers computed, on average over layers.", "model")
        self.overflown = counter("transkimmer_overflows", "Batches of which texts ran again with more room.", "model")

    def batch(self, model: ServedModel, predictions: Predictions) -> None:
        """A batch was computed."""
        tokens = int(predictions.lengths.sum())
        self.batch_texts.observe(len(predictions.lengths))
        self.batch_tokens.observe(tokens)
        self.tokens_in.labels(model.name).inc(tokens)
        self.tokens_computed.labels(model.name).inc(float(predictions.kept.sum()) / len(predictions.kept))

    def overflows(self, model: ServedModel, count: int) -> None:
        """So many more batches have lost texts."""
        self.overflown.labels(model.name).inc(count)

    def answered(self, route: str | None, method: str, texts: int, lengths: list[int], seconds: tuple[float, float, float, float]) -> None:
        """A request was answered. route: 'embed' or 'predict', or neither. lengths: of its texts, or of their windows. seconds: in all,
        reading, waiting and computing."""
        self.success.labels(method).inc()
        for length in lengths:
            self.lengths.observe(length)
        for histogram, value in zip(self.durations, seconds, strict=True):
            histogram.observe(value)
        if route is not None:
            _, success, histograms = self.routes[route]
            success.inc(texts)
            for histogram, value in zip(histograms, seconds, strict=True):
                histogram.observe(value)

    def asked(self, route: str | None, method: str, texts: int) -> None:
        """A request came in."""
        self.count.labels(method).inc()
        if route is not None:
            self.routes[route][0].inc(texts)

    def failed(self, label: str) -> None:
        """A request was not answered."""
        self.failure.labels(label).inc()

    def exposition(self, waiting: int) -> bytes:
        """All of it in Prometheus' text format. waiting: texts that wait now."""
        self.queue_size.set(waiting)
        # The library has counters end in _total, and the dashboards that there are do not.
        return _TOTAL.sub(r"\1", prometheus_client.generate_latest(self._registry).decode()).encode()
