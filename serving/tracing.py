"""Spans for OpenTelemetry: of each request and its stages, beside those of Ray Serve about calls between deployments.

Without a configuration they go nowhere and cost next to nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from pipeline.errors import RayrieverError
from pipeline.recipe import Recipe

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

_TRACER = trace.get_tracer("rayriever")
_WHERE = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def request_span(headers: Mapping[str, str]) -> AbstractContextManager[Span]:
    """Around a request: below the span that Ray Serve has made of it, else below the client's, where it sent one."""
    known = trace.get_current_span().get_span_context().is_valid
    above = None if known else TraceContextTextMapPropagator().extract(headers)
    return _TRACER.start_as_current_span("request", above, SpanKind.SERVER)


def stage_span(name: str) -> AbstractContextManager[Span]:
    """Around a stage of the request that is at work."""
    return _TRACER.start_as_current_span(name)


def tracing_options(recipe: Recipe) -> dict[str, Any]:
    """For Ray Serve: no spans unless the standard environment variables say where to send them.

    Raises RayrieverError, naming the extra, where they do and what sends them is not installed.
    """
    if not any(map(os.environ.get, _WHERE)):
        return {"enabled": False}
    try:
        import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    except ModuleNotFoundError as error:
        raise RayrieverError(
            f"serve: {_WHERE[1]} is set, but the exporter is not installed. Run: pip install 'rayriever[otel]'"
        ) from error
    os.environ.setdefault("OTEL_SERVICE_NAME", recipe.serve.name)
    return {
        "enabled": True,
        "exporter_import_path": "serving.tracing:processors",
        "sampling_ratio": recipe.serve.traced,
    }


def processors() -> list[SpanProcessor]:
    """Called by Ray Serve in each of its processes; our spans go the same way."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return [BatchSpanProcessor(OTLPSpanExporter())]
