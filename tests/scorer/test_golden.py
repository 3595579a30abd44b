"""Scores that the authors of TWOLAR publish for their weights."""

import os

import pytest

from pipeline.recipe import ScorerSection
from pipeline.scorer.load import load_scorer_model
from pipeline.scorer.score import Scorer

_WEIGHTS = os.environ.get("RAYRIEVER_TWOLAR_XL")
# The example of github.com/Dundalia/TWOLAR, README.md
_QUERY = "What is the significance of the Turing Award in the field of computer science?"
_PASSAGES = {
    2.6042: "Title: Major Milestones in Computer Science. Content: Another significant recognition in the world of "
    "computing is the Turing Award. Named after Alan Turing, the father of theoretical computer science and "
    "artificial intelligence, the award is often dubbed the 'Nobel Prize of Computer Science.' Established in 1966, "
    "it is conferred annually by the Association for Computing Machinery (ACM) to an individual or a group who made "
    "major contributions to the field of computer science.",
    1.3059: "Title: Alan Turing, a Brief Biography. Content: Despite his monumental contributions, Turing faced "
    "persecution in his lifetime due to his sexuality. However, his legacy lives on in various ways, one of which is "
    "the Turing Award. While this award bears his name and is given in the domain of computer science, its "
    "significance in terms of academic recognition remains underappreciated.",
    1.6411: "Title: Notbale Awards in Various Disciplines. Content: Turning to the realm of computer science, one "
    "cannot forget the Turing Award. The Turing Award has been around for decades and is a prestigious accolade, "
    "honoring those who have pushed the boundaries of computer science research and innovation. This award is more "
    "than just a title; it carries with it a rich history and a commitment to recognizing excellence in computing.",
}


@pytest.mark.skipif(_WEIGHTS is None, reason="RAYRIEVER_TWOLAR_XL names no folder with the weights of TWOLAR-xl")
def test_twolar_xl_scores_as_published() -> None:
    """transformers 5.0 scaled flan-t5's logits: every score was 45 times too small, the order the same."""
    section = ScorerSection(model=str(_WEIGHTS), max_tokens=500, truncation="right")
    scores = Scorer(load_scorer_model(section), "float32", 4096).score(_QUERY, list(_PASSAGES.values()))
    assert scores.tolist() == pytest.approx(list(_PASSAGES), abs=0.01)
