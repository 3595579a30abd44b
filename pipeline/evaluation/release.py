"""What release.json says: which encoder to deploy, with which index of the corpus, and how to fuse it with BM25."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

from pipeline.artifact import Artifact
from pipeline.encoder.systems import dense_systems
from pipeline.evaluation.gate import Decision
from pipeline.evaluation.hybrid import Fusion
from pipeline.recipe import EncoderSection


def release(decision: Decision, section: EncoderSection, artifacts: Mapping[str, Artifact], fusion: Fusion) -> str:
    """The JSON text. Folders are relative to the workspace; `section` describes the base encoder.

    Raises ValueError when the artifacts of the chosen encoder are not there.
    """
    chosen = next((each for each in dense_systems(artifacts) if each.name == decision.chosen), None)
    if chosen is None:
        raise ValueError(f"there is no model and index of the encoder {decision.chosen!r}.")
    content = {
        "verdict": decision.verdict,
        "chosen": decision.chosen,
        "reason": decision.reason,
        # A trained folder holds its prompts and limits; the base model needs those of the recipe.
        "encoder": section.result_fields()
        if chosen.training is None
        else {"path": f"{_place(artifacts[chosen.training])}/model"},
        "index": f"{_place(artifacts[chosen.index])}/index",
        "words": f"{_place(artifacts['words'])}/words",
        "fusion": asdict(fusion),
    }
    return json.dumps(content, indent=1) + "\n"


def _place(artifact: Artifact) -> str:
    """Folder of an artifact, relative to the workspace."""
    return f"stages/{artifact.manifest.stage}/{artifact.manifest.identity}"
