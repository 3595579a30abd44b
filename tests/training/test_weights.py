"""Weights in training: saved, restored, adapted, and released as a plain sentence-transformers folder."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

from pipeline.encoder.encode import Encoder
from pipeline.encoder.model import load_model
from pipeline.encoder.side import QUERY
from pipeline.errors import RayrieverError
from pipeline.recipe import DistillSection, EncoderSection
from pipeline.training import weights
from pipeline.training.bi_encoder import BiEncoder
from pipeline.training.step import StepRecipe, accumulate_gradient
from tests.training.test_step import assert_same, recipe_of, uneven_batch

TEXTS = ["red apple", "a rather longer text about the green tea of last night", "x"]
CPU = torch.device("cpu")


def section(**values: object) -> DistillSection:
    return DistillSection(**{"dtype": "float32", "learning_rate": 1e-2, "tokens_per_batch": 64, **values})


class Training:
    """A model and its optimiser, one step after the other on the same batch; dropout depends on the step alone."""

    def __init__(self, encoder: Path, chosen: DistillSection) -> None:
        self.encoder = encoder
        torch.manual_seed(0)
        self.model = weights.prepare(self.blank(), chosen, CPU)
        self.optimizer = weights.optimizer(self.model.parameters(), chosen, fused=not chosen.sharded)
        self.recipe, visit = recipe_of("soft_nn", kept=0)
        self.recipe = StepRecipe(self.recipe.objective, 0.05, matryoshka=chosen.matryoshka)
        self.batch = uneven_batch(visit)

    def blank(self) -> SentenceTransformer:
        return load_model(EncoderSection(model=str(self.encoder), query_prompt="query: "))

    def step(self, number: int) -> float:
        torch.manual_seed(number)
        self.optimizer.zero_grad()
        loss = accumulate_gradient(self.model, self.batch, self.recipe).loss
        self.optimizer.step()
        return loss

    def save(self, folder: Path) -> Path:
        folder.mkdir()
        weights.save(self.model, self.optimizer, self.blank, folder)
        return folder / weights.MODEL

    def state(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in self.model.encoder.state_dict().items()}


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name, value in expected.items() if not torch.equal(found[name], value)] == []


def released_vectors(folder: Path) -> torch.Tensor:
    model = SentenceTransformer(str(folder), device="cpu")
    return torch.as_tensor(model.encode_query(TEXTS, convert_to_tensor=True))


@pytest.mark.parametrize("values", [{}, {"lora_rank": 2}, {"gradient_checkpointing": True}], ids=str)
def test_restored_training_continues_to_the_bit(values: dict[str, object], tiny_encoder: Path, tmp_path: Path):
    """A moment or a step count that is lost would let a resumed run end elsewhere, without a word."""
    whole = Training(tiny_encoder, section(**values))
    for number in range(3):
        whole.step(number)
    whole.save(tmp_path / "checkpoint")
    at_checkpoint = whole.state()
    expected = [whole.step(number) for number in (3, 4)]

    resumed = Training(tiny_encoder, section(**values))
    weights.restore(resumed.model.encoder, resumed.optimizer, tmp_path / "checkpoint")
    assert_equal(resumed.state(), at_checkpoint)
    assert [resumed.step(number) for number in (3, 4)] == expected
    assert_equal(resumed.state(), whole.state())


def test_released_folder_has_the_trained_vectors_and_reads_whole_texts(tiny_encoder: Path, tmp_path: Path):
    training = Training(tiny_encoder, section(max_tokens=8, gradient_checkpointing=True))
    training.step(0)
    folder = training.save(tmp_path / "checkpoint")
    assert torch.allclose(released_vectors(folder), training.model.vectors(TEXTS, QUERY), atol=1e-5)
    assert not torch.allclose(released_vectors(folder), released_vectors(tiny_encoder), atol=1e-2)
    saved = SentenceTransformer(str(folder), device="cpu")
    assert saved.max_seq_length == 64
    assert saved.prompts["query"] == "query: "
    assert not saved[0].auto_model.is_gradient_checkpointing


def test_pooler_that_is_never_read_is_left_alone(tiny_encoder: Path):
    """Weight decay would shrink it, and clipping would count it."""
    training = Training(tiny_encoder, section())
    before = training.state()
    training.step(0)
    unchanged = {name for name, value in training.state().items() if torch.equal(value, before[name])}
    assert unchanged == {"0.model.pooler.dense.weight", "0.model.pooler.dense.bias"}


def test_only_adapters_learn_and_they_are_few(tiny_encoder: Path):
    training = Training(tiny_encoder, section(lora_rank=1))
    before = training.state()
    for number in range(2):
        training.step(number)
    changed = {name for name, value in training.state().items() if not torch.equal(value, before[name])}
    learning = [name for name, p in training.model.encoder.named_parameters() if p.requires_grad]
    assert changed == set(learning) and changed
    assert all("lora_" in name for name in learning)
    assert sum(p.numel() for p in training.model.parameters()) < 0.1 * sum(value.numel() for value in before.values())


def test_adapted_encoder_is_released_as_a_plain_one(tiny_encoder: Path, tmp_path: Path):
    """Whoever loads it needs no peft, and gets the vectors that were measured on dev."""
    training = Training(tiny_encoder, section(lora_rank=4))
    for number in range(3):
        training.step(number)
    folder = training.save(tmp_path / "checkpoint")
    plain = {path.relative_to(tiny_encoder) for path in tiny_encoder.rglob("*") if path.is_file()}
    assert {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()} == plain - {Path("README.md")}
    assert load_file(folder / "model.safetensors").keys() == load_file(tiny_encoder / "model.safetensors").keys()
    assert torch.allclose(released_vectors(folder), training.model.vectors(TEXTS, QUERY), atol=1e-5)
    assert not torch.allclose(released_vectors(folder), released_vectors(tiny_encoder), atol=1e-2)
    training.step(3)  # saving must not have merged the adapters that go on learning
    assert not torch.allclose(released_vectors(folder), training.model.vectors(TEXTS, QUERY), atol=1e-4)


def test_projection_beside_the_adapters_is_released_as_trained(tiny_encoder: Path, tmp_path: Path):
    """A Dense module has no adapters and learns itself; it would be released as it was before training."""
    body = SentenceTransformer(str(tiny_encoder), device="cpu")
    torch.manual_seed(1)
    projected = SentenceTransformer(modules=[body[0], body[1], Dense(32, 16), Normalize()], device="cpu")
    projected.save(str(tmp_path / "projected"))
    training = Training(tmp_path / "projected", section(lora_rank=2))
    before = training.state()
    training.step(0)
    changed = {name for name, value in training.state().items() if not torch.equal(value, before[name])}
    assert {name for name in changed if "lora_" not in name} == {"2.linear.weight", "2.linear.bias"}
    folder = training.save(tmp_path / "checkpoint")
    assert torch.allclose(released_vectors(folder), training.model.vectors(TEXTS, QUERY), atol=1e-5)


def test_adapters_without_peft_say_what_to_install(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(RayrieverError, match=r"lora_rank needs peft: pip install 'rayriever\[lora\]'"):
        Training(tiny_encoder, section(lora_rank=2))


def test_gradient_checkpointing_has_the_same_gradient(tiny_encoder: Path):
    """Recomputing with other dropout would be the gradient of another function."""
    found = []
    for checkpointing in (False, True):
        training = Training(tiny_encoder, section(gradient_checkpointing=checkpointing))
        assert training.model.encoder[0].auto_model.is_gradient_checkpointing == checkpointing
        training.optimizer.step = lambda: None  # type: ignore[method-assign, assignment]
        training.step(0)
        named = training.model.encoder.named_parameters()
        found.append({name: p.grad for name, p in named if p.grad is not None})
    assert_same(found[1], found[0])


def test_matryoshka_trains_the_first_dimensions_too(tiny_encoder: Path, tmp_path: Path):
    """The vectors keep their width; their beginning alone tells the batch apart better than without."""
    losses = {}
    for dimensions in ((), (4,)):
        training = Training(tiny_encoder, section(matryoshka=dimensions, learning_rate=3e-3))
        for number in range(15):
            training.step(number)
        assert training.model.vectors(TEXTS, QUERY).shape == (3, 32)
        losses[dimensions] = _loss_of_first(4, training)
    assert losses[4,] < 0.8 * losses[()]


def _loss_of_first(width: int, training: Training) -> float:
    batch = training.batch
    queries, documents = (
        torch.nn.functional.normalize(training.model.vectors(texts, side)[:, :width], dim=1)
        for texts, side in ((batch.queries, QUERY), (batch.documents, "document"))
    )
    scores = queries @ documents.T / training.recipe.temperature
    return float(training.recipe.objective(scores, batch.masks(slice(0, 5))).mean())


@pytest.fixture(scope="module", params=["left", "right"])
def causal_encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3 whose last token, an end-of-text that the tokenizer adds, is the vector; padded on either side."""
    source, folder = tmp_path_factory.mktemp("tiny-qwen"), tmp_path_factory.mktemp("causal-encoder")
    vocabulary = {
        token: place for place, token in enumerate(["<pad>", "<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())])
    }
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<end>",
        padding_side=request.param,
        model_max_length=64,
    ).save_pretrained(source)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=64,
    )
    Qwen3Model(config).save_pretrained(source)
    modules = [Transformer(str(source), max_seq_length=64), Pooling(32, pooling_mode="lasttoken"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder))
    return folder


def test_last_token_is_found_wherever_the_padding_is(causal_encoder: Path):
    """Cut from the wrong side, or read at the wrong place, the vector would be that of a padding token."""
    encoder = load_model(EncoderSection(model=str(causal_encoder)))
    reference = SentenceTransformer(str(causal_encoder), device="cpu")
    alone = torch.stack([torch.as_tensor(reference.encode(text, convert_to_tensor=True)) for text in TEXTS])
    together = torch.from_numpy(Encoder(encoder, "float32", 10_000).encode_passages(TEXTS))
    assert torch.allclose(together, alone, atol=1e-5)
    for tokens in (16, 10_000):
        training = BiEncoder(encoder, tokens, "float32")
        assert torch.allclose(training.vectors(TEXTS, "document"), alone, atol=1e-5)


@pytest.mark.parametrize("values", [{}, {"lora_rank": 4}, {"gradient_checkpointing": True}], ids=str)
def test_causal_backbone_trains(values: dict[str, object], causal_encoder: Path, tmp_path: Path):
    training = Training(causal_encoder, section(learning_rate=2e-3, **values))
    losses = [training.step(number) for number in range(30)]
    assert losses[-1] < 0.7 * losses[0]
    folder = training.save(tmp_path / "checkpoint")
    assert torch.allclose(released_vectors(folder), training.model.vectors(TEXTS, QUERY), atol=1e-5)
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["Qwen3Model"]
