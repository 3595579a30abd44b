"""Options beyond the paper: negatives that the LLM checks, passages of one length."""

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.synthesis import stage
from pipeline.synthesis.lengths import cut, match_lengths
from tests.small_run import write_like_a_model

if TYPE_CHECKING:
    from tests.conftest import ChatServer
    from tests.synthesis.conftest import Synthesis

TEN = "Yeast makes gas in the dough. That gas is held."  # sentence ends after 6 and 10 words


def test_cut_ends_with_the_nearest_sentence_or_else_with_a_word():
    text = f"{TEN} It rises then."
    assert cut(text, 10) == TEN
    assert cut(text, 9) == TEN, "one word more is nearer than half a sentence"
    assert cut(text, 7) == "Yeast makes gas in the dough.", "one word less, too"
    assert cut(text, 8) == "Yeast makes gas in the dough. That gas"
    assert cut(text, 12) == text, "the end of the text is the end of a sentence"
    assert cut(text, 13) == cut(text, 99) == text


@pytest.mark.parametrize("abbreviation", ["J. Smith", "S. cerevisiae", "approx. half"])
def test_an_abbreviation_is_no_end_of_a_sentence(abbreviation):
    """Half a name at the end of a passage would tell cut passages from others."""
    text = f"It has been known for long to {abbreviation} and to all the others"
    assert cut(text, 9) == f"It has been known for long to {abbreviation}", "a word, not the nearby full stop"


def test_the_longer_passage_is_cut_and_a_lone_one_left_alone():
    long = " ".join(f"Here are the {n} words." for n in range(20))
    documents = {
        "decomposition": {"a": long},
        "positive": {"a": long, "b": TEN, "c": long},
        "negative": {"a": TEN, "b": long, "d": long},
    }
    outcomes: Counter[str] = Counter()
    matched = match_lengths(documents, outcomes)
    assert len(matched["positive"]["a"].split()) == len(matched["negative"]["b"].split()) == 10
    assert matched["negative"]["a"] == matched["positive"]["b"] == TEN
    assert matched["positive"]["c"] == matched["negative"]["d"] == matched["decomposition"]["a"] == long
    assert outcomes == {"positive_cut": 1, "negative_cut": 1}
    assert documents["positive"]["a"] == long


def test_recorded_passages_are_cut_where_the_recipe_asks_for_it(synthesis: "Synthesis"):
    path = synthesis.file([{"query_id": "q1", "positive": f"{TEN} {TEN} {TEN}", "negative": TEN, "verified": True}])
    assert synthesis.run(synthesis.recipe(path=path, match_length=True)).rows["q1"]["positive"] == TEN
    assert synthesis.run(synthesis.recipe(path=path)).rows["q1"]["positive"] == f"{TEN} {TEN} {TEN}"


def test_negative_that_answers_is_dropped_and_an_unclear_verdict_drops_nothing(
    synthesis: "Synthesis", chat_server: "ChatServer", ray_cluster: None, monkeypatch: pytest.MonkeyPatch
):
    """A false negative pushes the encoder away from answers; a rambling verdict must not empty the column."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    verdicts = {"bread": "yes", "keel": "no", "moon": "well, perhaps"}

    def reply(content: str, attempt: int) -> dict[str, Any]:
        if "Answer with one word only" in content:
            return _says("well, perhaps")
        if "Is this passage relevant" in content:
            said = next(said for topic, said in verdicts.items() if topic in content)
            return _says(said if "Off the topic" in content else "yes")
        subject = content.split("Question: ")[1].split("\n")[0]
        off_topic = "irrelevant" in content or "does not answer" in content
        return _says(f"{'Off' if off_topic else 'On'} the topic of {subject} there is much to say.")

    chat_server.reply = reply
    llm = {"engine": "openai", "model": "test-model", "base_url": chat_server.url, "max_retries": 0}
    found = synthesis.run(synthesis.recipe(llm, words=20, check_negatives=True))
    assert {i: bool(row["negative"]) for i, row in found.rows.items()} == {"q1": False, "q2": True, "q3": True}
    assert [row["verdict"] for row in found.rows.values()] == ["yes"] * 3, "positives have verdicts of their own"
    counted = {name: n for name, n in found.outcomes.items() if name.startswith("negative_") and n}
    assert counted == {
        "negative_ok": 3,
        "negative_verdict_yes": 1,
        "negative_verdict_no": 1,
        "negative_verdict_unparseable": 1,
        "negative_verdict_retried": 1,
        "negative_dropped": 1,
    }
    asked = chat_server.total
    assert asked == 3 * 5 + 1
    unchecked = synthesis.run(synthesis.recipe(llm, words=20))
    assert all(row["negative"] for row in unchecked.rows.values()) and chat_server.total == asked


def test_key_depends_on_the_verdict_prompt_only_where_verdicts_are_asked(synthesis: "Synthesis"):
    llm = {"engine": "openai", "model": "m"}
    asked = [
        stage.external(synthesis.recipe(llm, verify=verify, check_negatives=check))["prompts"]
        for verify, check in ((True, False), (False, True), (False, False))
    ]
    assert asked[0] == asked[1] != asked[2]


def _says(text: str) -> dict[str, Any]:
    completion = json.loads(write_like_a_model("Question: x\n", 1)["body"])
    completion["choices"][0]["message"]["content"] = text
    return {"body": json.dumps(completion)}
