"""Classes without boxes, with few, or in one split only."""

from __future__ import annotations

from cledet.data_check.classes import check_classes


def found(counts: dict[str, dict[str, int]]) -> dict[tuple[str, str], tuple[str, list[str]]]:
    """Severity and examples by kind and split."""
    return {(f.kind, f.split): (f.severity, [e.text for e in f.examples]) for f in check_classes(counts)}


def test_balanced_classes_have_no_findings() -> None:
    assert found({"train": {"cat": 10, "dog": 500}, "val": {"cat": 1, "dog": 1}}) == {}
    assert found({}) == {}


def test_unused_is_without_a_box_in_all_splits() -> None:
    counts = {"train": {"cat": 10, "dog": 0, "fish": 0}, "val": {"cat": 3, "dog": 3, "fish": 0}}
    assert found(counts)["unused", "train, val"] == ("warning", ["fish"])


def test_rare_is_counted_in_the_training_split() -> None:
    counts = {"train2017": {"cat": 9, "dog": 10, "ant": 2}, "val2017": {"cat": 99, "dog": 1, "ant": 99}}
    assert found(counts) == {("rare", "train2017"): ("warning", ["ant: 2", "cat: 9"])}
    assert found({"a": {"cat": 6, "dog": 9}, "b": {"cat": 6}}) == {("rare", "a, b"): ("warning", ["dog: 9"])}


def test_classes_of_one_split_only() -> None:
    counts = {"train": {"cat": 20, "dog": 0, "ant": 30}, "val": {"cat": 5, "dog": 4, "ant": 0}}
    assert found(counts) == {
        ("unseen", "val"): ("warning", ["dog: 4"]),
        ("unmeasured", "val"): ("warning", ["ant: 30"]),
    }


def test_a_class_that_train_does_not_list_is_an_error() -> None:
    counts = {"train": {"cat": 20}, "val": {"cat": 5, "dog": 0}}
    (strange,) = (f for f in check_classes(counts) if f.kind == "strange")
    assert (strange.severity, strange.split, strange.count) == ("error", "val", 1)
    assert strange.text == "1 class not listed in train: evaluation refuses the split"


def test_counts_are_in_the_sentence() -> None:
    (rare,) = check_classes({"train": {"cat": 1, "dog": 2, "ant": 20}})
    assert rare.text == "2 of 3 classes have fewer than 10 boxes"
    (rare,) = check_classes({"train": {"cat": 10, "dog": 2}})
    assert rare.text == "1 of 2 classes has fewer than 10 boxes"
