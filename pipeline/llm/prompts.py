"""Prompts as files, `prompts/TASK.jinja`: a front matter, then a template of one conversation.

    ---
    task: question
    version: 1
    parser: question
    max_tokens: 40
    ---
    {% block system %}You write search queries.{% endblock %}
    {% block user_1 %}<passage>Yeast works slowly in the cold.</passage>{% endblock %}
    {% block assistant_1 %}Why is cold dough slow?{% endblock %}
    {% block user %}<passage>{{ passage }}</passage>{% endblock %}

The blocks are named after roles, in the order of the conversation; `user` is required, numbered blocks before it are
example turns. Everything outside the blocks is a comment to the reader; white space around a block's text is dropped.
A recipe replaces a file by one of the same form: `llm.prompts: {question: my_question.jinja}`.

Values are data. What could end the quotes or the tag around a passage, or the turn of the conversation, is written so
that it does not: a passage cannot speak as anybody else than a passage.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jinja2 import StrictUndefined, Template, TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.digest import digest
from pipeline.errors import RayrieverError
from pipeline.llm.parsers import CHOICES, GROUPS, VERDICTS
from pipeline.llm.requests import Sampling, model_identity
from pipeline.recipe import LlmSection

TEMPLATES = Path(str(files("pipeline.llm") / "prompts"))

_ROLES = ("system", "user", "assistant")
_FRONT_MATTER = re.compile(r"\A---\n(?P<matter>.*?)\n---\n(?P<template>.*)\Z", re.DOTALL)
# Our own quotes and tags, and the marks with which chat templates of common models begin and end a turn.
_MARKS = re.compile(
    r"\"(?=\"\")|<(?=/?\s*passage\b|/?think\b|[|｜]|/?s>|/?(?:start|end)_of_turn\b|</?SYS>)|\[(?=/?INST\])",
    re.IGNORECASE,
)


class FrontMatter(BaseModel):
    """What a prompt file says about itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    version: int = Field(ge=1)
    parser: str  # name of the parser of its answers
    temperature: float | None = Field(None, ge=0, le=2)  # None where the recipe says
    max_tokens: int | None = Field(None, ge=1)  # of an answer; None where it follows from the words asked for
    # The only answers there are, for engines that can be held to them; None: those of our file, if the parser is its
    choices: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Prompt:
    """One task's file, read and checked."""

    place: str  # of the file
    about: FrontMatter
    source: str  # the whole file
    template: Template
    values: frozenset[str]  # that the template fills in
    forces_choices: bool = False  # whether the engine is held to the choices

    def messages(self, **values: object) -> list[dict[str, str]]:
        """The conversation with `values` filled in. Raises jinja2.UndefinedError for a value that is not given."""
        context = self.template.new_context(dict(values))
        parts = {block: "".join(lines(context)).strip() for block, lines in self.template.blocks.items()}
        return [{"role": block.split("_")[0], "content": text} for block, text in parts.items() if text]

    def sampling(self, temperature: float | None = None, max_tokens: int | None = None) -> Sampling:
        """What the file says, and the arguments where it says nothing.

        Raises RayrieverError when neither does.
        """
        drawn = temperature if self.about.temperature is None else self.about.temperature
        limit = max_tokens if self.about.max_tokens is None else self.about.max_tokens
        if drawn is None or limit is None:
            absent = "temperature" if drawn is None else "max_tokens"
            raise RayrieverError(f"{self.place}: {absent} is missing in the front matter.")
        return Sampling(drawn, limit, choices=self.about.choices or () if self.forces_choices else ())


def tasks() -> list[str]:
    """Names of all tasks."""
    return sorted(path.stem for path in TEMPLATES.glob("*.jinja"))


def load(task: str, section: LlmSection) -> Prompt:
    """The recipe's own file for the task, or ours.

    Raises RayrieverError, naming the file, when it is not there, has another form than ours, is for another task,
    names a parser that reads another kind of answer, or uses a value that this task does not have.
    """
    known = tasks()
    for named in (task, *section.prompts):
        if named not in known:
            raise RayrieverError(f"prompt: there is no task {named!r}; there are {', '.join(known)}.")
    ours = TEMPLATES / f"{task}.jinja"
    builtin = _read(str(ours), ours.read_text(encoding="utf-8"))
    if task not in section.prompts:
        return replace(builtin, forces_choices=section.forces_choices)
    own = section.prompts[task]
    try:
        source = Path(own).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RayrieverError(f"llm.prompts: {task}: {own} cannot be read: {error}") from error
    prompt = _read(own, source)
    _check_fits(prompt, builtin)
    about = prompt.about
    if about.choices is None and about.parser == builtin.about.parser:
        about = about.model_copy(update={"choices": builtin.about.choices})
    return replace(prompt, about=about, forces_choices=section.forces_choices)


def answer_fingerprint(section: LlmSection, tasks: Sequence[str]) -> dict[str, Any]:
    """What stored results of these tasks depend on, for stage keys. Raises RayrieverError as `load` does."""
    return {
        "model": model_identity(section),
        "section": section.result_fields(),
        "prompts": digest({task: load(task, section).source for task in tasks}),
    }


@cache
def _read(place: str, source: str) -> Prompt:
    found = _FRONT_MATTER.match(source.replace("\r\n", "\n"))
    if found is None:
        raise RayrieverError(f"{place}: a prompt file begins with a front matter between two lines of three dashes.")
    try:
        about = FrontMatter.model_validate(yaml.safe_load(found["matter"]))
    except (yaml.YAMLError, ValidationError) as error:
        raise RayrieverError(f"{place}: front matter: {_first_line(error)}") from error
    try:
        template = _ENVIRONMENT.from_string(found["template"])
    except TemplateError as error:
        raise RayrieverError(f"{place}: {error}") from error
    if "user" not in template.blocks:
        raise RayrieverError(f"{place}: block 'user' is missing.")
    if unknown := sorted(block for block in template.blocks if block.split("_")[0] not in _ROLES):
        raise RayrieverError(f"{place}: no such role: {', '.join(unknown)}. There are {', '.join(_ROLES)}.")
    values = meta.find_undeclared_variables(_ENVIRONMENT.parse(found["template"]))
    return Prompt(place, about, source, template, frozenset(values))


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}"
    return " ".join(str(error).split())


def _check_fits(own: Prompt, builtin: Prompt) -> None:
    if own.about.task != builtin.about.task:
        raise RayrieverError(f"{own.place}: it is for task {own.about.task}, not {builtin.about.task}.")
    parsers = next(group for group in GROUPS if builtin.about.parser in group)
    if own.about.parser not in parsers:
        raise RayrieverError(
            f"{own.place}: no parser {own.about.parser} for task {own.about.task}; there are {', '.join(parsers)}."
        )
    read = {**VERDICTS, **CHOICES}.get(own.about.parser)
    for choice in own.about.choices or ():
        if read is None or read(choice, "stop") is None:
            raise RayrieverError(f"{own.place}: choices: parser {own.about.parser} cannot read {choice!r}.")
    if unknown := sorted(own.values - builtin.values):
        known = ", ".join(sorted(builtin.values)) or "none"
        raise RayrieverError(f"{own.place}: no value {', '.join(unknown)} in task {own.about.task}; there are {known}.")


def _as_data(value: Any) -> Any:
    return _MARKS.sub(lambda mark: f"{mark[0]} ", value) if isinstance(value, str) else value


_ENVIRONMENT = ImmutableSandboxedEnvironment(
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    finalize=_as_data,
    autoescape=False,  # prompts are text for a model, not HTML for a browser
)
