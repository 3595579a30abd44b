"""Models of a replica: loaded once, one at a time, shared by generations."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from transformers import PreTrainedModel

from pipeline.collection.operate import add_file
from serving.generations import Generations, Ref, Shared
from serving.models import Encoders, Rerankers, ToEncode, ToScore
from tests.collection.test_models import write_rows

LIVE = Ref("live", 1)


def test_models_that_are_asked_for_at_the_same_time_leave_transformers_as_it_was(published):
    """It replaces methods of its classes while it loads; two loads at once would leave the replacement in place."""
    before = {name: getattr(PreTrainedModel, name) for name in ("tie_weights", "_initialize_weights", "init_weights")}
    for _ in range(5):
        encoders, rerankers, start = Encoders(published), Rerankers(published), threading.Barrier(4)

        def ask(models, start=start) -> object:
            start.wait()
            return models.of(LIVE)

        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(ask, [encoders, rerankers, encoders, rerankers]))
        assert found[0] is found[2] and found[1] is found[3], "one of each"
    assert {name: getattr(PreTrainedModel, name) for name in before} == before


def test_generations_with_the_same_models_share_them_until_the_last_one_goes(own, tmp_path):
    recipe = own()
    add_file(recipe, write_rows(tmp_path / "new.jsonl"), "live")
    encoders, later = Encoders(recipe), Ref("live", 2)
    model = encoders.of(LIVE)
    assert encoders.of(later) is model
    encoders.keep([later])
    assert encoders.of(later) is model
    encoders.keep([])
    assert encoders.of(later) is not model


def test_requests_together_get_what_each_gets_alone(published):
    encoders, rerankers = Encoders(published), Rerankers(published)
    texts = [["a"], ["oven number 3", "tide"], ["x " * 40]]
    asked = [ToEncode(LIVE, side, each) for side in ("query", "document") for each in texts]
    for together, request in zip(encoders.encode(asked), asked, strict=True):
        (alone,) = encoders.encode([request])
        assert together.vectors == pytest.approx(alone.vectors, abs=1e-5)
        assert together.tokens.tolist() == alone.tokens.tolist()
    pairs = [ToScore(LIVE, "oven", each) for each in texts]
    for found, pair in zip(rerankers.score(pairs), pairs, strict=True):
        (alone,) = rerankers.score([pair])
        assert found.logits == pytest.approx(alone.logits, abs=1e-5) and len(found.logits) == len(pair.passages)


def test_a_generation_is_opened_once_however_many_ask():
    opened, start = [], threading.Barrier(8)

    def slowly(ref: Ref) -> Ref:
        opened.append(ref)
        threading.Event().wait(0.05)
        return ref

    generations = Generations(slowly)

    def ask(_: int) -> Ref:
        start.wait()
        return generations.get(LIVE)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(8))) == {LIVE}
    assert opened == [LIVE]


def test_an_opening_that_fails_is_tried_again():
    answers = iter([OSError("away"), "there"])

    def flaky(ref: Ref) -> str:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    generations = Generations(flaky)
    with pytest.raises(OSError, match="away"):
        generations.get(LIVE)
    assert generations.get(LIVE) == "there"


def test_what_no_generation_needs_is_let_go_of():
    shared: Shared[object] = Shared()
    kept = shared.get("a", object)
    shared.get("b", object)
    shared.keep(["a"])
    assert shared.get("a", object) is kept
    assert shared.get("b", lambda: "new") == "new"
