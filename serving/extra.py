"""The libraries that only serving needs, and what to install where they are missing."""

from __future__ import annotations

from importlib.util import find_spec

from pipeline.errors import RayrieverError

APPLICATION = "rayriever"
_NEEDED = ("fastapi", "opentelemetry", "prometheus_client", "uvicorn")


def require_serve() -> None:
    """Raise RayrieverError, naming the extra, unless Ray Serve and what belongs to it are installed."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise RayrieverError(f"serve: {', '.join(missing)} not installed. Run: pip install 'rayriever[serve]'")
