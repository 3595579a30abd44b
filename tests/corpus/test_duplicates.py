"""Near-duplicates are those that comparing every pair would find, at a price that grows with the corpus."""

import random
import time
from collections.abc import Callable, Set
from itertools import combinations

import pytest

from pipeline.corpus.duplicates import character_shingles, find_duplicates, jaccard, word_shingles

Shingle = Callable[[str], Set[str]]


def _corpus(size: int, words: int, seed: int) -> list[str]:
    """Random texts, half of them edited copies of others: from untouched to a fifth of the words replaced."""
    rng = random.Random(seed)
    vocabulary = [f"word{n}" for n in range(3_000)]
    texts = [" ".join(rng.choices(vocabulary, k=words)) for _ in range(size // 2)]
    for original in list(texts):
        copy = original.split()
        for place in rng.sample(range(words), rng.randint(0, words // 5)):
            copy[place] = rng.choice(vocabulary)
        texts.append(" ".join(copy))
    rng.shuffle(texts)
    return texts


def _by_brute_force(texts: list[str], threshold: float, shingle: Shingle) -> dict[str, str]:
    sets = [shingle(text) for text in texts]
    first = list(range(len(texts)))
    for one, other in combinations(range(len(texts)), 2):
        if jaccard(sets[one], sets[other]) >= threshold:
            low, high = sorted((first[one], first[other]))
            first = [low if each == high else each for each in first]
    return {str(n): str(root) for n, root in enumerate(first) if n != root}


@pytest.mark.parametrize(
    ("threshold", "shingle", "words"),
    [
        (0.9, word_shingles, 120),
        (0.6, word_shingles, 60),
        (0.8, character_shingles, 12),
        (1.0, word_shingles, 9),
    ],
)
def test_finds_what_comparing_every_pair_finds(threshold: float, shingle: Shingle, words: int):
    texts = _corpus(400, words, seed=words)
    found = find_duplicates([str(n) for n in range(400)], texts, threshold, shingle)
    pairs = dict(zip(found["passage_id"].to_pylist(), found["duplicate_of"].to_pylist(), strict=True))
    expected = _by_brute_force(texts, threshold, shingle)
    assert len(expected) > 5
    assert pairs == expected
    for row in found.to_pylist():
        one, other = texts[int(row["passage_id"])], texts[int(row["duplicate_of"])]
        assert row["similarity"] == jaccard(shingle(one), shingle(other))


def test_case_and_white_space_do_not_tell_texts_apart():
    texts = ["An  Old\nStory", "another one", "an old story ", "", " ", "Straße zwei", "STRASSE zwei"]
    found = find_duplicates(list("abcdefg"), texts, 0.9, word_shingles).to_pylist()
    assert [tuple(row.values()) for row in found] == [("c", "a", 1.0), ("e", "d", 1.0), ("g", "f", 1.0)]


def test_a_single_sign_tells_short_texts_apart():
    assert find_duplicates(["+", "-"], ["Same as a + b.", "Same as a - b."], 0.9, word_shingles).num_rows == 0


def test_a_group_is_named_after_its_first_member_along_a_chain():
    base = [f"w{n}" for n in range(60)]
    # Each text drops one more word in front: neighbours are near, the ends are not.
    texts = [" ".join(base[n:]) for n in (4, 0, 2, 6)]
    found = find_duplicates(list("abcd"), texts, 0.95, word_shingles).to_pylist()
    assert [(row["passage_id"], row["duplicate_of"]) for row in found] == [("b", "a"), ("c", "a"), ("d", "a")]
    assert found[0]["similarity"] == 54 / 58 < 0.95


def test_shingles_of_short_texts_are_the_texts_themselves():
    assert word_shingles("Two words") == {"two", "words"}
    assert word_shingles("now three words") == {"now three words"}
    assert character_shingles("Ab  c") == {"ab c"}
    assert character_shingles("abcde") == {"abcd", "bcde"}
    assert character_shingles(" ") == set()


@pytest.mark.parametrize("kind", ["unrelated", "one template", "one text but for a word"])
def test_time_grows_with_the_corpus_and_not_with_its_square(kind: str):
    def seconds(size: int) -> float:
        rng = random.Random(0)
        template = [f"t{n}" for n in range(60)]
        replaced = {"unrelated": 60, "one template": 6, "one text but for a word": 1}[kind]
        texts = []
        for _ in range(size):
            words = list(template)
            for place in rng.sample(range(60), replaced):
                words[place] = f"w{rng.randrange(100_000)}"
            texts.append(" ".join(words))
        start = time.process_time()
        find_duplicates([str(n) for n in range(size)], texts, 0.9, word_shingles)
        return time.process_time() - start

    small = min(seconds(750) for _ in range(3))
    # four times the texts: four times the time, sixteen times where every pair is compared
    assert min(seconds(3_000) for _ in range(2)) < 9 * small


def test_progress_reaches_the_end():
    told: list[tuple[int, int]] = []
    find_duplicates(["a", "b"], ["x", "y"], 0.9, word_shingles, lambda done, total: told.append((done, total)))
    assert told[-1] == (2, 2)
