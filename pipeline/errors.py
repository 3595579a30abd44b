"""The one exception that reaches the user (what was wrong, where, and what to do), and how it is found in others."""

from __future__ import annotations


class RayrieverError(Exception):
    """A condition the user can mend. The command line prints its text without a traceback and exits with 1."""


def root_cause(error: BaseException) -> BaseException:
    """The RayrieverError or OSError inside what Ray wrapped around it; else the error itself."""
    for inner in _chain(error):
        # Ray's own wrappers also inherit from the class they wrap; their text is a traceback.
        if isinstance(inner, (RayrieverError, OSError)) and not _is_of_ray(inner):
            return inner
    return error


def _is_of_ray(error: BaseException) -> bool:
    return any(kind.__name__ == "RayError" for kind in type(error).__mro__)


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    pending: list[BaseException | None] = [error]
    while pending:
        inner = pending.pop()
        if inner is not None and inner not in found:
            found.append(inner)
            pending += [getattr(inner, "cause", None), inner.__cause__, inner.__context__]
    return found
