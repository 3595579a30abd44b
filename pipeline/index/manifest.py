"""What an index says about itself in its generation: how it was made, of which vectors, by which encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.encoder.identity import EncoderIdentity
from pipeline.errors import RayrieverError
from pipeline.index.kinds import Spec


@dataclass(frozen=True)
class Effort:
    """How much of an approximate index a search looks at."""

    probes: int  # lists of ivf_* per query
    depth: int  # breadth of hnsw's search
    candidates: int  # scored exactly, per hit asked for


@dataclass(frozen=True)
class About:
    """The `about` of an index's generation."""

    spec: Spec
    why: str  # the kind was chosen
    effort: Effort
    recall: float | None  # at 10, measured when the effort was chosen; None where it was not
    encoder: EncoderIdentity
    corpus: str  # identity of the corpus artifact
    vectors: str  # identity of the artifact of vectors
    metric: str = "inner product of unit vectors"

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> About:
        known = dict(values)
        known["spec"] = Spec(**known["spec"])
        known["effort"] = Effort(**known["effort"])
        known["encoder"] = EncoderIdentity(**known["encoder"])
        return cls(**known)

    def values(self) -> dict[str, Any]:
        return asdict(self)


def check_encoder(about: About, encoder: EncoderIdentity, where: str) -> None:
    """Raise RayrieverError unless this encoder made the vectors: another one's queries find nonsense without an error.

    What only queries see (their prompt) may differ.
    """
    if encoder.dimension != about.spec.dimension:
        raise RayrieverError(
            f"{where}: its vectors have {about.spec.dimension} dimensions, those of the encoder {encoder.dimension}. "
            "Search it with the encoder that made it."
        )
    for name in ("weights", "passage_prompt", "max_tokens"):
        made, given = getattr(about.encoder, name), getattr(encoder, name)
        if made != given:
            raise RayrieverError(
                f"{where}: made by an encoder with {name.replace('_', ' ')} {made!r}, not {given!r}. "
                "Search it with the encoder that made it, or build it again."
            )
