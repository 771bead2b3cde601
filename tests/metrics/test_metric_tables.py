"""Tables of `val`, and their formats."""

from __future__ import annotations

from cledet.metrics.evaluation import METRICS, Evaluation
from cledet.metrics.metric_tables import as_document, misalignment_table, nms_table, to_csv, to_markdown, val_tables

ORACLE = {"AP": 0.75, "AP50": 1.0, "AP75": 0.5}
FIGURES = dict.fromkeys(METRICS, 0.5) | {"APl": None}
PER_CLASS = {"red": {"AP": 0.25, "AP50": None, "conf": 0.625}}
BEST = {"conf": 0.75, "f1": 0.5, "precision": 1.0, "recall": None}


def evaluation(**more):
    misalignment = {"spearman": 0.25, "kept_iou": 0.75, "best_iou": 0.875, "oracle": ORACLE}
    metrics = FIGURES | {"VOC07": 0.5, "VOC12": 0.25}
    return Evaluation(metrics, PER_CLASS, BEST, nms_ms=2.0, misalignment=misalignment, **more)


def test_markdown_and_csv():
    columns, rows = ["NMS", "AP", "n"], [["a", 0.123456, 3], ["b", None, 4]]
    assert to_markdown(columns, rows) == "| NMS | AP | n |\n| --- | --: | --: |\n| a | 0.1235 | 3 |\n| b | - | 4 |\n"
    assert to_markdown(["class"], [["a|b\nc"]]) == "| class |\n| --- |\n| a\\|b\\nc |\n"
    assert to_csv(columns, rows) == "NMS,AP,n\na,0.123456,3\nb,,4\n"


def test_several_methods_are_rows():
    methods = {"a": evaluation(), "b": evaluation(gain={"AP": 0.125, "low": -0.25, "high": 0.5})}
    columns, rows = nms_table(methods)
    assert columns == ["NMS", "AP", "AP50", "AP75", "APs", "APm", "APl", "ms per image", "AP - a", "95 % from", "to"]
    assert rows[0] == ["a", 0.5, 0.5, 0.5, 0.5, 0.5, None, 2.0, None, None, None]
    assert rows[1][-3:] == [0.125, -0.25, 0.5]
    assert len(nms_table({"a": evaluation(), "b": evaluation()})[0]) == 8
    assert val_tables(methods) == [nms_table(methods), misalignment_table(methods)]
    assert as_document(methods)["methods"]["b"]["gain"]["high"] == 0.5


def test_one_method_has_all_its_metrics():
    whole, half, classes, misalignment = val_tables({"a": evaluation()})
    assert whole == (list(METRICS), [list(FIGURES.values())])
    assert half[0] == ["VOC07", "VOC12", "best confidence", "its F1", "precision", "recall"]
    assert half[1] == [[0.5, 0.25, 0.75, 0.5, 1.0, None]]
    assert classes[0] == ["class", "AP", "AP50", "AP75", "best confidence", "its F1", "precision", "recall"]
    assert classes[1] == [["red", 0.25, None, None, 0.625, None, None, None]]
    assert misalignment[1] == [["a", 0.25, 0.75, 0.875, 0.75]]
    document = as_document({"a": evaluation()})
    assert document == evaluation().to_dict()
    assert (document["VOC12"], document["best_conf"], document["best_f1"]) == (0.25, 0.75, 0.5)


def test_without_clusters_two_metrics_are_left():
    one = Evaluation(FIGURES, PER_CLASS, BEST, misalignment={"spearman": None, "kept_iou": 0.75})
    columns, rows = misalignment_table({"a": one})
    assert len(columns) == 3
    assert rows == [["a", None, 0.75]]
