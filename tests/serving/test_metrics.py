"""The dashboard shows figures that exist."""

import json
import re
import sys
from pathlib import Path

import pytest

from pipeline.errors import RayrieverError
from pipeline.recipe import Recipe
from serving.metrics import Metrics, PartMetrics, merged
from serving.tracing import tracing_options


def test_a_part_whose_replica_died_or_whose_gateways_are_several_is_told_apart():
    first, second = Metrics(), Metrics()
    for metrics, count in ((first, 1), (second, 2)):
        for _ in range(count):
            metrics.request("/v1/search", 200, 0.1)
    text = merged({"gateway": [first.figures(), second.figures()], "vectors-0": []}).decode()
    assert 'rayriever_replicas{part="gateway"} 2.0' in text and 'rayriever_replicas{part="vectors-0"} 0.0' in text
    counted = re.findall(r"^rayriever_requests_total\{.*} (.+)$", text, re.MULTILINE)
    assert sorted(map(float, counted)) == [1, 2]


def test_every_figure_of_the_dashboard_is_one_that_the_server_exports():
    text = merged({"gateway": [Metrics().figures()], "encoder": [PartMetrics().figures()]}).decode()
    exported = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
    dashboard = json.loads((Path(__file__).parents[2] / "serving/grafana.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    ours = {name for expression in asked for name in re.findall(r"\brayriever_\w+", expression)}
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in ours} == exported


def test_traces_without_their_exporter_name_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    for name in [name for name in sys.modules if name.startswith("opentelemetry.exporter.otlp")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp", None)
    with pytest.raises(RayrieverError, match=r"rayriever\[otel\]"):
        tracing_options(Recipe.model_validate({"corpus": {"path": "x"}}))
