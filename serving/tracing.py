"""Where OpenTelemetry spans go. Ray Serve makes them: of each request, and of its calls between the deployments."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pipeline.errors import RayrieverError
from pipeline.recipe import Recipe

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

_WHERE = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def tracing_options(recipe: Recipe) -> dict[str, Any]:
    """For Ray Serve: no spans unless the standard environment variables say where to send them.

    Raises RayrieverError, naming the extra, where they do and what sends them is not installed.
    """
    if not any(map(os.environ.get, _WHERE)):
        return {"enabled": False}
    if find_spec("opentelemetry.exporter.otlp.proto.http") is None:
        raise RayrieverError(
            f"serve: {_WHERE[1]} is set, but the exporter is not installed. Run: pip install 'rayriever[otel]'"
        )
    os.environ.setdefault("OTEL_SERVICE_NAME", recipe.serve.name)
    return {
        "enabled": True,
        "exporter_import_path": "serving.tracing:processors",
        "sampling_ratio": recipe.serve.traced,
    }


def processors(file_name: str) -> list[SpanProcessor]:
    """Called by Ray Serve in each of its processes."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return [BatchSpanProcessor(OTLPSpanExporter())]
