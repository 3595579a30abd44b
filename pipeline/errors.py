"""The one exception that reaches the user: what was wrong, where, and what to do."""

from __future__ import annotations


class RayrieverError(Exception):
    """A condition the user can mend. The command line prints its text without a traceback and exits with 1."""
