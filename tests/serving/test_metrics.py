"""The dashboard shows figures that exist."""

import json
import re
from pathlib import Path

from serving.metrics import Metrics


def test_every_figure_of_the_dashboard_is_one_that_the_server_exports():
    metrics = Metrics()
    exported = set(re.findall(r"^# TYPE (\w+)", metrics.text().decode(), re.MULTILINE))
    dashboard = json.loads((Path(__file__).parents[2] / "serving/grafana.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    ours = {name for expression in asked for name in re.findall(r"\brayriever_\w+", expression)}
    assert {re.sub("_bucket$", "", name) for name in ours} == exported
