"""Show a training while it runs: metrics.jsonl, TensorBoard events and, where configured, MLflow."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tensorboardX import SummaryWriter

from pipeline.errors import RayrieverError
from pipeline.recipe import TrackingSection
from pipeline.workspace import Workspace


class Tracker:
    """Context manager that takes rows of metrics. A resumed training repeats some steps: the later row counts."""

    def __init__(
        self,
        section: TrackingSection,
        workspace: Workspace,
        run: str,
        values: Mapping[str, Any],
        tell: Callable[[str], None],
    ) -> None:
        default = Path(workspace.root, "logs") if workspace.is_local else Path("logs")
        self.folder = Path(section.folder or default) / run
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lines = (self.folder / "metrics.jsonl").open("a", buffering=1, encoding="utf-8")
        self._events = SummaryWriter(str(self.folder))
        self._mlflow = _start_mlflow(section, run, values) if section.mlflow else None
        self._tell = tell

    def write(self, row: Mapping[str, float]) -> None:
        """A row has `step` and any other figures."""
        step = int(row["step"])
        figures = {name: value for name, value in row.items() if name != "step"}
        self._lines.write(json.dumps({"step": step, **figures}) + "\n")
        for name, value in figures.items():
            self._events.add_scalar(name, value, step)
        self._to_mlflow(lambda mlflow: mlflow.log_metrics(figures, step=step))

    def _to_mlflow(self, action: Callable[[Any], None]) -> None:
        """A server that goes away must not take hours of training with it."""
        if self._mlflow is None:
            return
        try:
            action(self._mlflow)
        except self._mlflow.exceptions.MlflowException as error:
            self._mlflow = None
            self._tell(f"MLflow hears no more of this training: {error}")

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        self._events.close()
        self._to_mlflow(lambda mlflow: mlflow.end_run("FAILED" if error else "FINISHED"))


def _start_mlflow(section: TrackingSection, run: str, values: Mapping[str, Any]) -> Any:
    try:
        import mlflow
    except ImportError as error:
        raise RayrieverError("tracking.mlflow needs MLflow: pip install 'rayriever[mlflow]'.") from error
    try:
        mlflow.set_tracking_uri(section.mlflow)
        mlflow.set_experiment(section.mlflow_experiment)
        mlflow.start_run(run_name=run)
        mlflow.log_params(dict(values))
    except mlflow.exceptions.MlflowException as error:
        raise RayrieverError(f"tracking.mlflow {section.mlflow}: {error}") from error
    return mlflow
