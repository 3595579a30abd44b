"""Strict reading of what an LLM answers: an answer in another form is no answer.

A prompt's front matter names its parser; parsers of one group can replace each other. Each takes the answer and why it
ended (`finish_reason` of an LLM_RESPONSE row) and gives None for what it cannot read. One of RANKINGS takes the number
of passages shown besides, and says in which way an answer is no ranking.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pipeline.llm.parsers.choice import Choice, a_b
from pipeline.llm.parsers.passage import passage
from pipeline.llm.parsers.permutation import RankingParser, digits, letters, permutation
from pipeline.llm.parsers.query import claim, keywords, line, question
from pipeline.llm.parsers.thought import thoughtful
from pipeline.llm.parsers.verdict import yes_no

TEXTS: Mapping[str, Callable[[str, str], str | None]] = {
    each.__name__: thoughtful(each) for each in (question, keywords, claim, line, passage)
}
VERDICTS: Mapping[str, Callable[[str, str], bool | None]] = {yes_no.__name__: thoughtful(yes_no)}
CHOICES: Mapping[str, Callable[[str, str], Choice | None]] = {a_b.__name__: thoughtful(a_b)}
RANKINGS: Mapping[str, RankingParser] = {each.__name__: each for each in (permutation, digits, letters)}

GROUPS: tuple[Mapping[str, object], ...] = (TEXTS, VERDICTS, CHOICES, RANKINGS)
