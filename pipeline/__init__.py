"""Offline half of Rayriever: corpus and LLM in; tuned encoder, index and report out."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("rayriever")
except PackageNotFoundError:  # running from a checkout that was never installed
    __version__ = "0+unknown"
