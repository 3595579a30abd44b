"""What a training writes while it runs: lines, TensorBoard events, MLflow."""

import json
import sys
from pathlib import Path

import pytest

from pipeline.errors import RayrieverError
from pipeline.recipe import TrackingSection
from pipeline.training.tracking import Tracker
from pipeline.workspace import Workspace

VALUES = {"stage": "distill", "matryoshka": (8, 16), "patience": None, "learning_rate": 1e-3}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A local store: the one that MLflow's skinny package can write without a server."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return f"file://{tmp_path}/mlruns"


def test_mlflow_gets_values_and_figures(store: str, tmp_path: Path):
    from mlflow import MlflowClient

    section = TrackingSection(mlflow=store, mlflow_experiment="bread")
    with Tracker(section, Workspace(str(tmp_path)), "distill-0", VALUES, print) as tracker:
        for step, loss in ((1, 2.5), (2, 1.5)):
            tracker.write({"step": step, "loss": loss})
    client = MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("bread")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "distill-0" and run.info.status == "FINISHED"
    assert run.data.params["matryoshka"] == "(8, 16)" and run.data.params["learning_rate"] == "0.001"
    found = client.get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in found] == [(1, 2.5), (2, 1.5)]


def test_broken_training_is_marked_as_failed(store: str, tmp_path: Path):
    from mlflow import MlflowClient

    section = TrackingSection(mlflow=store)
    with pytest.raises(KeyError), Tracker(section, Workspace(str(tmp_path)), "distill-0", VALUES, print):
        raise KeyError
    client = MlflowClient(tracking_uri=store)
    (run,) = client.search_runs([client.get_experiment_by_name("rayriever").experiment_id])  # type: ignore[union-attr]
    assert run.info.status == "FAILED"


def test_mlflow_that_goes_away_costs_no_training(store: str, tmp_path: Path):
    """Steps go on to be written elsewhere; one message tells, not one per step."""
    import mlflow

    said: list[str] = []
    with Tracker(TrackingSection(mlflow=store), Workspace(str(tmp_path)), "distill-0", VALUES, said.append) as tracker:
        mlflow.set_tracking_uri("http://127.0.0.1:9")
        for step in (1, 2, 3):
            tracker.write({"step": step, "loss": 1.0})
    assert len(said) == 1 and said[0].startswith("MLflow hears no more of this training: ")
    lines = (tmp_path / "logs" / "distill-0" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    mlflow.set_tracking_uri(store)
    mlflow.end_run()


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "nonsense://here"])
def test_mlflow_that_is_not_there_is_told_before_training(uri: str, store: str, tmp_path: Path):
    with pytest.raises(RayrieverError, match=f"^tracking.mlflow {uri}: "):
        Tracker(TrackingSection(mlflow=uri), Workspace(str(tmp_path)), "distill-0", VALUES, print)


def test_mlflow_that_is_not_installed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(RayrieverError, match=r"tracking.mlflow needs MLflow: pip install 'rayriever\[mlflow\]'"):
        Tracker(TrackingSection(mlflow="http://there"), Workspace(str(tmp_path)), "distill-0", VALUES, print)


def test_folder_of_the_recipe_is_used_and_a_resumed_run_adds_to_it(tmp_path: Path):
    section = TrackingSection(folder=str(tmp_path / "elsewhere"))
    for step in (1, 2):
        with Tracker(section, Workspace(str(tmp_path)), "distill-0", VALUES, print) as tracker:
            tracker.write({"step": step, "loss": 1.0})
    folder = tmp_path / "elsewhere" / "distill-0"
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
    assert not (tmp_path / "logs").exists()
