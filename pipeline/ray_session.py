"""One connection to Ray per process, quiet, and its errors in words."""

from __future__ import annotations

import logging
import os
import sys
import sysconfig
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pipeline
from pipeline.errors import RayrieverError
from pipeline.recipe import RaySection

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Ray's own code calls every Ray Data actor an error, because its arguments lie in the object store
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    # Ray Train's workers would otherwise look for a recipe's ./folders in a folder of their own
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TOKENIZERS_PARALLELISM": "false",  # tokenizers warn, or hang, when a process that used threads forks
}


def ensure_ray(section: RaySection) -> None:
    """Join the cluster that the section or RAY_ADDRESS names, or start one on this machine; once per process.

    Workers of a cluster started here can import `pipeline` from wherever this process did. On a cluster that is
    joined the package must be installed. Raises RayrieverError when the cluster cannot be joined or started.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"ray\..*")
    import ray

    if not ray.is_initialized():
        address = section.address or os.environ.get("RAY_ADDRESS")
        try:
            with _without_notice_of_log_level():
                if address:
                    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
                else:
                    _start_here(section)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            place = f"cluster {address} cannot be joined" if address else "no cluster could be started here"
            raise RayrieverError(f"ray: {place}: {error}") from error
    _configure_ray_data(section.labels)


def _start_here(section: RaySection) -> None:
    import ray

    _let_workers_import_us()
    ray.init(
        # "local" starts a cluster even where another Ray runs on this machine
        address="local",
        num_cpus=section.num_cpus,
        object_store_memory=section.object_store_mb * 1_000_000,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


@contextmanager
def _without_notice_of_log_level() -> Iterator[None]:
    """Setting RAY_BACKEND_LOG_LEVEL makes Ray's C++ part say so on the standard error, past Python's."""
    sys.stderr.flush()
    original = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(original, 2)
            os.close(original)
            held.seek(0)
            for line in held:
                if b"Set ray log level from environment variable" not in line:
                    os.write(2, line)


def _let_workers_import_us() -> None:
    """Ray gives its workers the script's folder and the current one, which need not be where `pipeline` is."""
    root = str(Path(pipeline.__file__).parents[1])
    installed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    known = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    if root not in installed and root not in known:
        os.environ["PYTHONPATH"] = os.pathsep.join([*known, root])


def _configure_ray_data(labels: dict[str, str]) -> None:
    import ray.data  # configures the logger that is quieted here

    context = ray.data.DataContext.get_current()
    context.execution_options.label_selector = labels or None
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True  # otherwise an actor's RayrieverError arrives as text in a traceback
    for handler in logging.getLogger("ray.data").handlers:
        # Its log file keeps everything; failures reach the user as one RayrieverError instead of two tracebacks.
        if type(handler).__name__ == "PlainRayHandler":
            handler.setLevel(logging.CRITICAL)


@contextmanager
def explained_ray_errors(who: str, advice: str) -> Iterator[None]:
    """Turn what reaches the driver from workers into a RayrieverError: their own one, or that they died.

    Other exceptions of workers are mistakes in our code and pass with Ray's traceback.

    Args:
        who: what died, as in 'llm: the engine'.
        advice: what the user can do about it.
    """
    from ray.exceptions import RayError, RayTaskError

    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, RayrieverError):
            # Ray Data appends its advice on retries to the text
            raise RayrieverError(str(error.cause).split("\nFailed to apply UDF transform")[0]) from error
        raise
    except RayError as error:
        reason = " ".join(str(error).split())[:500]
        raise RayrieverError(f"{who} died: {reason}\n{advice}") from error


def beside_driver() -> dict[str, Any]:
    """Options of an actor that the driver cannot do without: it lives as long as the driver's node, and takes no CPU.

    Anywhere else it would go with whatever node it happened to be put on.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    node = ray.get_runtime_context().get_node_id()
    return {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}
