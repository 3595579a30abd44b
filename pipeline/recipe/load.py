"""Recipes from YAML: environment variables, overrides, and errors that name the key and the remedy."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from pipeline.errors import RayrieverError
from pipeline.recipe.recipe import Recipe, section_of
from pipeline.recipe.section import Section


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe file and apply `a.b=value` overrides (values are YAML).

    Raises RayrieverError naming the file, the key and, for an unknown key, the nearest valid one.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RayrieverError(f"recipe {path}: cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RayrieverError(f"recipe {path}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise RayrieverError(f"recipe {path}: must be a mapping of sections, such as 'corpus:'.")
    return make_recipe(content, overrides, f"recipe {path}")


def make_recipe(content: dict[str, Any], overrides: list[str] | None, place: str) -> Recipe:
    """A recipe from its sections and `a.b=value` overrides. Raises RayrieverError that begins with `place`."""
    for override in overrides or []:
        _apply_override(content, override)
    try:
        return Recipe.model_validate(_expanded(content, place))
    except ValidationError as error:
        raise RayrieverError(f"{place}:\n" + "\n".join(_explain(e) for e in error.errors())) from error


_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
_URI_WITH_KEY = re.compile(r"(\w+://)[^/?#@:\s]*:[^/?#@\s]+(@[^/?#\s]*)")


def _expanded(value: Any, place: str) -> Any:
    """The content with `${NAME}` and `${NAME:-default}` replaced from the environment."""
    if isinstance(value, dict):
        return {name: _expanded(inner, place) for name, inner in value.items()}
    if isinstance(value, list):
        return [_expanded(inner, place) for inner in value]
    if not isinstance(value, str):
        return value
    expanded = _VARIABLE.sub(lambda found: _variable(found, place), value)
    if found := _URI_WITH_KEY.search(expanded):
        raise RayrieverError(
            f"{place}: {found[1]}...{found[2]}: no keys in a URI: logs, manifests and dashboards show it. Give them as "
            "the store's own clients take them: environment, profile, or the machine's role."
        )
    return expanded


def _variable(found: re.Match[str], place: str) -> str:
    content = os.environ.get(found[1], found[2])
    if content is None:
        raise RayrieverError(f"{place}: {found[0]}: the environment variable {found[1]} is not set.")
    return content


def _apply_override(content: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key.strip():
        raise RayrieverError(f"--set {override}: write it as section.key=value.")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RayrieverError(f"--set {override}: the value is not valid YAML: {error}") from error
    _set_value(content, key.strip(), parsed, f"--set {override}")


def _set_value(content: dict[str, Any], key: str, value: Any, place: str) -> None:
    *parents, last = key.split(".")
    target = content
    for name in parents:
        # "corpus:" with nothing under it parses as None
        if target.get(name) is None:
            target[name] = {}
        target = target[name]
        if not isinstance(target, dict):
            raise RayrieverError(f"{place}: '{name}' is a value, not a section.")
    target[last] = value


def _explain(error: Any) -> str:
    place = tuple(str(part) for part in error["loc"])
    if error["type"] != "extra_forbidden":
        shown = "" if error["type"] == "missing" else f" (got {json.dumps(error['input'], default=str)[:80]})"
        return f"  {'.'.join(place)}: {error['msg']}{shown}"
    valid = sorted(_fields_at(place[:-1]))
    near = difflib.get_close_matches(place[-1], valid, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"valid keys: {', '.join(valid)}."
    return f"  {'.'.join(place)}: unknown key; {hint}"


def _fields_at(place: tuple[str, ...]) -> dict[str, FieldInfo]:
    section: type[Section] = Recipe
    for name in place:
        if name in section.model_fields:  # not a place in a list
            section = section_of(section.model_fields[name]) or section
    return section.model_fields


def with_overrides(recipe: Recipe, overrides: Mapping[str, Any], place: str) -> Recipe:
    """The recipe with other values: `section.key` -> value; None takes an optional section out.

    Raises RayrieverError that begins with `place` and names the key and, for an unknown one, the nearest valid.
    """
    content = recipe.model_dump(exclude_unset=True)
    for key, value in overrides.items():
        _set_value(content, key, value, f"{place}: {key}")
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise RayrieverError(f"{place}:\n" + "\n".join(_explain(e) for e in error.errors())) from error
