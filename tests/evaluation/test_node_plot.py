"""The plot of nodes in the report."""

from pipeline.evaluation.node_plot import node_plot
from pipeline.evaluation.report import StageCost


def stage(name: str, seconds: float, *nodes: tuple[float, dict[str, int]]) -> StageCost:
    return StageCost(name, seconds, 0.0, 0, nodes=nodes)


def test_nodes_that_came_and_went_stand_where_they_did():
    plot = node_plot(
        [
            stage("corpus", 2),  # without Ray: nobody counted
            stage("synthesis", 6, (0.2, {"head": 1}), (2.5, {"head": 1, "gpu": 4}), (4.5, {"head": 1, "gpu": 1})),
            stage("distill", 3, (0, {"head": 1, "gpu": 1}), (1.5, {"head": 1})),
        ]
    )
    assert plot is not None
    assert plot.text.splitlines() == [
        "gpu    " + "  " + "  ███▂" + "▂▂ " + "  at most 4",
        "head   " + "  " + "██████" + "███" + "  at most 1",
        "stage  " + "aabbbbbbccc",
    ]
    assert plot.legend == "A column is 1.0 s: a corpus, b synthesis, c distill."


def test_one_machine_is_no_news():
    assert node_plot([stage("corpus", 5), stage("words", 9, (0.1, {"": 1}))]) is None


def test_a_long_run_fits_on_a_line():
    plot = node_plot([stage("encode", 90_000, (0, {"": 3}), (45_000, {"": 6}))])
    assert plot is not None
    (bars, letters) = plot.text.splitlines()
    assert letters == "stage  " + "a" * 72
    assert bars == "nodes  " + "▄" * 35 + "█" * 37 + "  at most 6"
