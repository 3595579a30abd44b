"""Rendering prompt templates."""

from pathlib import Path

import pytest
from jinja2 import TemplateNotFound, UndefinedError

from pipeline.llm import prompts


@pytest.fixture(autouse=True)
def templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(prompts, "TEMPLATES", tmp_path)
    (tmp_path / "question.jinja").write_text(
        "Asks for one query.\n"
        "{% block system %}\nYou write search queries.\n{% endblock %}\n"
        "{% block user %}\nPassage: {{ passage }}\n{% if hint %}\nHint: {{ hint }}\n{% endif %}\n"
        "Query:\n{% endblock %}\n"
    )
    (tmp_path / "bare.jinja").write_text("{% block user %}{{ passage }}{% endblock %}")
    (tmp_path / "empty.jinja").write_text("No blocks here.")
    return tmp_path


def test_blocks_become_messages_and_values_stay_as_they_are():
    """Markup in a passage is text: neither escaped as HTML nor read as a template."""
    messages = prompts.render("question", passage="a < b & {{ c }}", hint=None)
    assert messages == [
        {"role": "system", "content": "You write search queries."},
        {"role": "user", "content": "Passage: a < b & {{ c }}\nQuery:"},
    ]


def test_system_block_may_be_absent():
    assert prompts.render("bare", passage="x") == [{"role": "user", "content": "x"}]


def test_forgotten_value_is_an_error_and_not_an_empty_string():
    with pytest.raises(UndefinedError, match="passage"):
        prompts.render("question", hint=None)


def test_unknown_template_and_template_without_user_block_are_refused():
    with pytest.raises(TemplateNotFound):
        prompts.render("absent")
    with pytest.raises(ValueError, match="prompt empty: block 'user'"):
        prompts.render("empty")


def test_numbered_blocks_are_example_turns(templates: Path):
    (templates / "shots.jinja").write_text(
        "{% block user_1 %}in{% endblock %}{% block assistant_1 %}out{% endblock %}"
        "{% block user %}{{ x }}{% endblock %}"
    )
    messages = prompts.render("shots", x="now")
    assert [(each["role"], each["content"]) for each in messages] == [
        ("user", "in"),
        ("assistant", "out"),
        ("user", "now"),
    ]


def test_unknown_role_is_refused(templates: Path):
    (templates / "odd.jinja").write_text("{% block sytem %}x{% endblock %}{% block user %}y{% endblock %}")
    with pytest.raises(ValueError, match="no such role: sytem"):
        prompts.render("odd")
