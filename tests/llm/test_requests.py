"""Content addresses: an answer that was paid for must be found again, and no other in its place."""

from pipeline.llm.requests import Sampling, model_identity, request_id
from pipeline.recipe import LlmSection
from tests.asked import build

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Größe des Meeres?"}]


def test_address_is_the_same_on_every_machine_and_version():
    """A changed address silently asks for, and pays for, every answer again."""
    golden = "dde7b410454c474b446b82e00db1f05526fd1b4b59786fd0e05c9b51ed07eb7e"
    assert request_id("org/model", MESSAGES, Sampling(0.7, 64)) == golden


def test_address_ignores_how_the_same_thing_is_written():
    reordered = [dict(reversed(message.items())) for message in MESSAGES]
    assert request_id("m", MESSAGES, Sampling(0, 64)) == request_id("m", reordered, Sampling(0.0, 64))


def test_address_changes_with_everything_that_changes_an_answer():
    asked = [
        request_id("m", MESSAGES, Sampling(0.7, 64)),
        request_id("n", MESSAGES, Sampling(0.7, 64)),
        request_id("m", MESSAGES[1:], Sampling(0.7, 64)),
        request_id("m", MESSAGES, Sampling(0.8, 64)),
        request_id("m", MESSAGES, Sampling(0.7, 65)),
        request_id("m", MESSAGES, Sampling(0.7, 64, seed=1)),
        request_id("m", MESSAGES, Sampling(0.7, 64, choices=("a", "b"))),
        request_id("m", MESSAGES, Sampling(0.7, 64, choices=("b", "a"))),
    ]
    assert len(set(asked)) == len(asked)


def test_purpose_is_no_part_of_the_address():
    """Two stages that ask the same thing share the answer."""
    first, second = (build("m", purpose, [MESSAGES], Sampling(0, 8)) for purpose in ("question", "positive"))
    assert first["request_id"] == second["request_id"]


def test_sampling_survives_its_json():
    for sampling in (Sampling(0.7, 64, 3), Sampling(0, 8, choices=("yes", "no"))):
        assert Sampling.from_json(sampling.to_json()) == sampling


def test_template_arguments_are_another_model():
    """A model that is told not to think answers differently."""
    section = LlmSection(engine="openai", model="m")
    assert model_identity(section) == "m"
    silent = section.model_copy(update={"chat_template": {"enable_thinking": False}})
    assert model_identity(silent) == 'm template:{"enable_thinking":false}'
