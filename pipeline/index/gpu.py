"""FAISS on a GPU, for what it is much faster at: training lists, finding each vector's list, exact search."""

from __future__ import annotations

from typing import Any

import faiss

from pipeline.errors import RayrieverError

# A GPU finds no more hits per query.
MOST_HITS = 2048


def require_gpu() -> None:
    """Raise RayrieverError unless this FAISS sees a GPU."""
    if not hasattr(faiss, "StandardGpuResources"):
        raise RayrieverError(
            "index.gpus: the FAISS that is installed has no GPU part. Run `pip uninstall faiss-cpu`, then "
            "`pip install 'rayriever[gpu]'`; or take index.gpus out."
        )
    if not faiss.get_num_gpus():
        raise RayrieverError("index.gpus: FAISS sees no GPU on this machine. Use another, or take index.gpus out.")


def on_gpu(index: faiss.Index) -> Any:
    """A copy of the index on the first GPU that Ray has given to this process. Keeps its working memory with it."""
    require_gpu()
    resources = faiss.StandardGpuResources()
    copy: Any = faiss.index_cpu_to_gpu(resources, 0, index)
    copy.own_resources = resources
    return copy
