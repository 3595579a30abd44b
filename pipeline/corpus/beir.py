"""Collections of the BEIR benchmark (Thakur et al. 2021) by name: downloaded once, then read from disk."""

from __future__ import annotations

import re
import tempfile
import zipfile
from pathlib import Path

from pipeline.errors import RayrieverError
from pipeline.local_files import cache_folder

_URL = "https://public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(/[A-Za-z0-9][A-Za-z0-9_-]*)?")

# Thakur et al. 2021, table 1; foreseen before a collection is downloaded.
PASSAGES = {
    "arguana": 8_674,
    "climate-fever": 5_416_593,
    "dbpedia-entity": 4_635_922,
    "fever": 5_416_568,
    "fiqa": 57_638,
    "hotpotqa": 5_233_329,
    "msmarco": 8_841_823,
    "nfcorpus": 3_633,
    "nq": 2_681_468,
    "quora": 522_931,
    "scidocs": 25_657,
    "scifact": 5_183,
    "trec-covid": 171_332,
    "webis-touche2020": 382_545,
}


def cached_folder(name: str) -> Path:
    """Return where `fetch` keeps a collection. Raises RayrieverError for what cannot be its name."""
    if not _NAME.fullmatch(name):
        raise RayrieverError(
            f"corpus beir:{name}: not the name of a BEIR collection. Known are {', '.join(PASSAGES)} and "
            "cqadupstack/FORUM."
        )
    return cache_folder() / "beir" / name


def fetch(name: str) -> Path:
    """Return the folder of a collection ('scifact', 'cqadupstack/android'), downloading it unless it is here.

    Raises RayrieverError where it has to be downloaded and cannot.
    """
    folder = cached_folder(name)
    if not folder.is_dir():
        _download(name.partition("/")[0], folder.parent if "/" not in name else folder.parent.parent)
    if not folder.is_dir():
        raise RayrieverError(f"corpus beir:{name}: {folder.parent} has no such folder. Correct corpus.path.")
    return folder


def _download(archive: str, cache: Path) -> None:
    # Imported here: beir loads torch.
    from beir.util import download_and_unzip

    url = f"{_URL}/{archive}.zip"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # An interrupted download must not pass for a collection the next time.
        with tempfile.TemporaryDirectory(prefix=".download-", dir=cache) as temporary:
            download_and_unzip(url, temporary)
            (Path(temporary) / archive).rename(cache / archive)
    except (OSError, zipfile.BadZipFile) as error:
        raise RayrieverError(
            f"corpus beir:{archive}: {url} could not be fetched ({error}). It needs network access and the "
            "name of a BEIR collection; without them set corpus.path to a local folder with corpus.jsonl, "
            f"queries.jsonl and qrels/, or put that folder at {cache / archive}."
        ) from error
