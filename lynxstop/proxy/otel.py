"""One OpenTelemetry span per request: names, counts and durations, never content."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lynxstop.extras import need
from lynxstop.proxy.exchange import Incoming, Reply
from lynxstop.remote.http.headers import without

OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
    "/v1/messages": "chat",
    "/v1/responses": "chat",
}
"""`gen_ai.operation.name` by route."""

NAMES = {
    "model": "gen_ai.request.model",
    "prompt_tokens": "gen_ai.usage.input_tokens",
    "completion_tokens": "gen_ai.usage.output_tokens",
}
"""Attributes of notes that the conventions have a name for; others are named `lynxstop.*`."""

_CARRIED = (b"traceparent", b"tracestate")


class Tracing:
    """Makes the spans.

    Parameters
    ----------
    provider : TracerProvider, optional
        Of the OpenTelemetry SDK; by default one that exports by OTLP over HTTP, as the OTEL_* variables say.
    system : str
        `gen_ai.provider.name`.

    Raises
    ------
    MissingExtraError
        When the extra `otel` is not installed.
    """

    def __init__(self, provider: Any = None, system: str = "openai") -> None:
        self._trace = need("opentelemetry.trace", "otel")
        self._context = need("opentelemetry.trace.propagation.tracecontext", "otel")
        self._provider = provider or _exporting()
        self._tracer = self._provider.get_tracer("lynxstop")
        self._system = system

    @contextmanager
    def span(self, incoming: Incoming, reply: Reply, route: str) -> Iterator[None]:
        """Cover a request with a span, and pass it to the upstream server as the parent."""
        propagator = self._context.TraceContextTextMapPropagator()
        shown = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in incoming.headers}
        operation = OPERATIONS.get(route)
        span = self._tracer.start_span(
            f"{operation or incoming.method} {route}",
            context=propagator.extract(shown),
            kind=self._trace.SpanKind.SERVER,
        )
        carrier: dict[str, str] = {}
        propagator.inject(carrier, self._trace.set_span_in_context(span))
        ours = [(name.encode(), value.encode()) for name, value in carrier.items()]
        incoming.headers = [*without(incoming.headers, _CARRIED), *ours]
        try:
            yield
        finally:
            self._describe(span, incoming, reply, route, operation)
            span.end()

    def close(self) -> None:
        """Send what has not been sent."""
        self._provider.shutdown()

    def _describe(
        self, span: Any, incoming: Incoming, reply: Reply, route: str, operation: str | None
    ) -> None:
        notes = incoming.notes
        if operation is not None:
            span.set_attribute("gen_ai.operation.name", operation)
            span.set_attribute("gen_ai.provider.name", self._system)
            if "model" in notes:
                span.update_name(f"{operation} {notes['model']}")
        span.set_attribute("http.request.method", incoming.method)
        span.set_attribute("http.route", route)
        span.set_attribute("http.response.status_code", reply.status)
        if reply.first_at is not None:
            span.set_attribute("lynxstop.first_chunk_seconds", reply.first_at - incoming.arrived)
        for name, value in notes.items():
            if value is not None:
                span.set_attribute(NAMES.get(name, f"lynxstop.{name}"), value)
        if reply.status >= 500 or not reply.ended:
            span.set_attribute("error.type", str(notes.get("outcome", reply.status)))
            span.set_status(self._trace.StatusCode.ERROR)


def _exporting() -> Any:
    sdk = need("opentelemetry.sdk.trace", "otel")
    export = need("opentelemetry.sdk.trace.export", "otel")
    otlp = need("opentelemetry.exporter.otlp.proto.http.trace_exporter", "otel")
    resource = need("opentelemetry.sdk.resources", "otel").Resource.create({"service.name": "lynxstop-proxy"})
    provider = sdk.TracerProvider(resource=resource)
    provider.add_span_processor(export.BatchSpanProcessor(otlp.OTLPSpanExporter()))
    return provider
