"""`rayriever serve`: the server on this machine or cluster, or the file that `serve deploy` reads."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.options import Overrides
from pipeline.cli.terminal import err, out, print_text, readable_errors
from pipeline.errors import RayrieverError
from serving.extra import APPLICATION

if TYPE_CHECKING:
    from pipeline.recipe import Recipe

app = typer.Typer()


@app.command()
def serve(
    target: Annotated[str, typer.Argument(metavar="RECIPE", help="Recipe file, or a workspace with a collection.")],
    overrides: Overrides = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; as serve.host.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port; as serve.port.")] = None,
    insecure: Annotated[bool, typer.Option(help="Let others in without an API key.")] = False,
    config: Annotated[bool, typer.Option("--config", help="Print the file for `serve deploy` instead.")] = False,
) -> None:
    """Serve a published collection over HTTP; a recipe's finished run is published first where none is."""
    with readable_errors():
        recipe = _recipe(target, overrides, host, port)
        if config:
            print_text(_config(recipe, insecure))
            return
        _publish_missing(target, recipe, overrides)
        _run(recipe, insecure)


def _recipe(target: str, overrides: list[str] | None, host: str | None, port: int | None) -> Recipe:
    from pipeline.recipe import load_recipe, make_recipe

    given = [*(overrides or []), *([f"serve.host={host}"] if host else []), *([f"serve.port={port}"] if port else [])]
    if target.endswith((".yaml", ".yml")):
        return load_recipe(target, given)
    return make_recipe({"workspace": target, "corpus": {"path": "."}}, given, f"workspace {target}")


def _publish_missing(target: str, recipe: Recipe, overrides: list[str] | None) -> None:
    """Raises RayrieverError where there is nothing to publish."""
    from pipeline.collection.about import collection_folder
    from pipeline.collection.operate import publish_run
    from pipeline.runner import finished_artifacts
    from pipeline.workspace import Workspace

    workspace = Workspace(recipe.workspace)
    missing = [name for name in recipe.serve.collections if not collection_folder(workspace, name).generations()]
    if not missing:
        return
    if missing != [recipe.serve.collections[0]] or not target.endswith((".yaml", ".yml")):
        raise RayrieverError(
            f"serve: {recipe.workspace} has no collection {missing[0]}. "
            f"First: rayriever collection publish RECIPE --name {missing[0]}"
        )
    generation = publish_run(recipe, finished_artifacts(recipe, workspace), missing[0])
    err.print(f"Published {missing[0]}, generation {generation.number}.")


def _run(recipe: Recipe, insecure: bool) -> None:
    from serving.extra import require_serve

    require_serve()
    import logging
    import signal
    import threading

    from ray import serve as ray_serve

    from pipeline.ray_session import ensure_ray
    from serving.app import application
    from serving.auth import keys_for
    from serving.listener import bound
    from serving.tracing import tracing_options

    section = recipe.serve
    keys_for(section, insecure)  # told at once, as is a port that is taken
    bound(section.host, section.port).close()
    ensure_ray(recipe.ray)
    err.print("Opening models and indexes ...")
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    # the gateway has an access log of its own
    quiet = {"log_level": "WARNING", "enable_access_log": False}
    ray_serve.start(
        proxy_location=_proxies(recipe),
        http_options=_http_options(recipe),
        logging_config=quiet,
        tracing_config=tracing_options(recipe),
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a supervisor's way to say Ctrl-C
    try:
        try:
            ray_serve.run(application(recipe, insecure), name=APPLICATION, route_prefix="/")
        except RuntimeError as error:
            raise RayrieverError(f"serve: {_why() or error}") from error
        out.print(f"http://{section.host}:{section.port}  (stop with Ctrl-C)", highlight=False)
        threading.Event().wait()
    except KeyboardInterrupt:
        err.print("Stopping.")
    finally:
        ray_serve.shutdown()


def _why() -> str | None:
    """What a replica found wrong, out of the tracebacks that Ray Serve keeps; None where it was something else."""
    from ray import serve as ray_serve

    application = ray_serve.status().applications[APPLICATION]
    messages = [application.message, *(each.message for each in application.deployments.values())]
    found = [told for message in messages for told in re.findall(r"RayrieverError: (.+)", message)]
    return found[-1] if found else None


def _proxies(recipe: Recipe) -> str:
    """Where Ray Serve is to take requests: a single process does that itself."""
    return "Disabled" if recipe.serve.together else "EveryNode"


def _http_options(recipe: Recipe) -> dict[str, Any]:
    section = recipe.serve
    # Behind the gateway's own deadline, which has an answer for the client
    return {"host": section.host, "port": section.port, "request_timeout_s": section.deadline_s + 30}


def _config(recipe: Recipe, insecure: bool) -> str:
    import yaml

    from serving.tracing import tracing_options

    content = {
        "proxy_location": _proxies(recipe),
        "http_options": _http_options(recipe),
        "tracing_config": tracing_options(recipe),
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": "serving.app:build",
                "args": {"recipe": recipe.model_dump(mode="json"), "insecure": insecure},
            }
        ],
    }
    return yaml.safe_dump(content, sort_keys=False)
