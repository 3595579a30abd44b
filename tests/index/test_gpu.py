"""FAISS on a GPU: the same results where there is one, a clear word where there is none."""

from pathlib import Path

import faiss
import numpy as np
import pytest

from pipeline.errors import RayrieverError
from pipeline.index import builder
from pipeline.index.gpu import require_gpu
from pipeline.index.manifest import About, Effort
from pipeline.index.search import ShardedIndex
from pipeline.index.shard import open_shard
from pipeline.recipe import IndexSection
from tests.index.vectors import build_folder, ids_of, mixture, search, shuffled_ids, spec_of, stored

there_is_one = hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0


@pytest.mark.skipif(there_is_one, reason="there is a GPU")
def test_without_a_gpu_it_is_refused_and_never_done_on_the_cpu(tmp_path: Path, ray_cluster):
    with pytest.raises(RayrieverError, match=r"index\.gpus: .*(no GPU part|sees no GPU)"):
        require_gpu()
    vectors = stored(tmp_path, mixture(1000, 16, 0), shuffled_ids(1000))
    spec = spec_of(1000, 16, kind="ivf_flat", shards=1)
    folder = build_folder(tmp_path, vectors, spec)
    with pytest.raises(RayrieverError, match=r"index\.gpus"):
        builder.train(vectors, spec, folder, "again", gpu=True)
    below = tmp_path / "flat"
    flat = build_folder(below, stored(below, mixture(9, 16, 0), shuffled_ids(9)), spec_of(9, 16))
    generation = flat.current()
    with pytest.raises(RayrieverError, match=r"index\.gpus"):
        open_shard(flat, generation.shards["vectors"][0], About.of(generation.about), 1, gpu=True)
    with pytest.raises(RayrieverError, match=r"index\.gpus"), ShardedIndex(flat, IndexSection(gpus=1)):
        pass


@pytest.mark.skipif(not there_is_one, reason="needs a GPU and faiss-gpu")
@pytest.mark.parametrize("kind", ["flat", "ivf_flat"])
def test_a_gpu_finds_what_the_cpu_finds(kind: str, tmp_path: Path):
    vectors, ids, queries = mixture(20_000, 64, 0), shuffled_ids(20_000), mixture(50, 64, 7)
    source, spec = stored(tmp_path, vectors, ids), spec_of(20_000, 64, kind=kind, shards=1)
    effort = Effort(spec.lists, 0, 1)
    folder = build_folder(tmp_path, source, spec, effort)
    about = About.of(folder.current().about)
    trained = builder.train(source, spec, folder, "gpu-trained", gpu=True) if spec.needs_training else None
    files = builder.build(source, (0, 20_000), spec, trained, folder, "gpu", 1, gpu=True)
    found = [
        search([open_shard(folder, each, about, 1, gpu)], queries, 100)
        for each, gpu in ((folder.current().shards["vectors"][0], False), (files, True))
    ]
    assert ids_of(found[0]) == ids_of(found[1])
    scores = [[[hit.score for hit in hits] for hits in each] for each in found]
    assert np.allclose(scores[0], scores[1], atol=1e-5)
