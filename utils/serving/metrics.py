"""The server's metrics for Prometheus: GET /metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Metrics:
    """The metrics of one server. Labels are few: names of routes, and served networks."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(name, text, labels, registry=self.registry, buckets=buckets)

        self.requests = counter("serve_requests", "Requests answered.", "route", "status")
        self.seconds = histogram("serve_request_seconds", "From a request to its answer.", SECONDS, "route")
        self.in_progress = gauge("serve_requests_in_progress", "Requests being answered.")
        self.images = counter("serve_images", "Images answered.", "model")
        self.queue = gauge("serve_queue_images", "Images that wait for a batch.", "model")
        self.batch = histogram("serve_batch_images", "Images of a batch.", (1, 2, 4, 8, 16, 32, 64, 128, 256), "model")
        self.engine = histogram("serve_engine_seconds", "Computation of a batch.", SECONDS, "model")
        self.decode = histogram("serve_decode_seconds", "From an encoded image to its pixels.", SECONDS)
        self.loads = counter("serve_model_loads", "Exports loaded, or not.", "model", "result")

    def text(self) -> bytes:
        """The metrics in Prometheus's text format."""
        return generate_latest(self.registry)
