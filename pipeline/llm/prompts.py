"""Prompts as templates: `prompts/NAME.jinja` becomes the messages of one conversation.

A template holds Jinja blocks named after roles, in the order of the conversation. `user` is required; numbered
blocks before it are example turns:

    {% block system %}You write search queries.{% endblock %}
    {% block user_1 %}Passage: Yeast works slowly in the cold.{% endblock %}
    {% block assistant_1 %}yeast cold speed{% endblock %}
    {% block user %}Passage: {{ passage }}{% endblock %}

Everything outside the blocks is a comment to the reader. White space around a block's text is dropped.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, FunctionLoader, StrictUndefined

from pipeline.workspace import digest

TEMPLATES = Path(str(files("pipeline.llm") / "prompts"))

_ROLES = ("system", "user", "assistant")


def render(name: str, **values: object) -> list[dict[str, str]]:
    """The messages of template `name` with `values` filled in, as they stand.

    Raises jinja2.UndefinedError when the template uses a value that is not given, and jinja2.TemplateNotFound.
    """
    template = _environment(TEMPLATES).get_template(name)
    context = template.new_context(dict(values))
    parts = {block: "".join(lines(context)).strip() for block, lines in template.blocks.items()}
    if not parts.get("user"):
        raise ValueError(f"prompt {name}: block 'user' is missing or empty")
    messages = [{"role": block.split("_")[0], "content": text} for block, text in parts.items() if text]
    if unknown := {message["role"] for message in messages} - set(_ROLES):
        raise ValueError(f"prompt {name}: no such role: {', '.join(sorted(unknown))}")
    return messages


def fingerprint(*names: str) -> str:
    """Changes when the text of one of these templates does."""
    texts = {name: (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8") for name in names}
    return digest(texts)


@cache
def _environment(folder: Path) -> Environment:
    def source(name: str) -> str | None:
        path = folder / f"{name}.jinja"
        return path.read_text(encoding="utf-8") if path.is_file() else None

    return Environment(
        loader=FunctionLoader(source),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701  prompts are text for a model, not HTML for a browser
    )
