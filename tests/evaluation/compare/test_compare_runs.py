"""Comparisons against pycocotools on images that are really copied, and left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cledet.data.images import read_image
from cledet.data.open import open_source
from cledet.errors import UserError
from cledet.evaluation.compare.compare_runs import (
    RunDifference,
    compare_runs,
    compare_sides,
    largest_class_differences,
    most_influential_images,
)
from cledet.evaluation.compare.comparison_tables import (
    class_table,
    main_table,
    notes,
    sections,
    side_document,
    side_notes,
    side_sections,
    to_document,
    to_page,
)
from cledet.evaluation.compare.side_by_side import save_side_by_side
from cledet.metrics.bootstrap import (
    MIN_IMAGES,
    PairedDifference,
    images_with_objects,
    interval,
    resamples,
    simultaneous,
)
from cledet.metrics.coco import evaluate
from cledet.metrics.seed_pairs import student_quantile


@pytest.fixture(scope="module")
def two(scattered):
    """A split of 18 images, and detections of which the second ones lie better."""
    index, good = scattered(18, 0, off=1.0)
    worse = good.copy()
    worse[:, 1:3] += np.random.default_rng(1).normal(0, 3, (len(worse), 2))
    return index, {"worse": worse, "good": good}


def copied(index, results, weights):
    """The images as often as the weights say, with new ids, and their detections."""
    positions = np.repeat(np.arange(len(index)), weights)
    pieces = [results[results[:, 0] == index.image_ids[i]].copy() for i in positions]
    for new, piece in enumerate(pieces, 1):
        piece[:, 0] = new
    return replace(index.subset(positions), image_ids=np.arange(len(positions)) + 1), np.concatenate(pieces)


def test_intervals_are_those_of_pycocotools_on_resamples(two):
    """Over all classes, and of each."""
    index, entries = two
    found = compare_runs(index, entries, 25).differences["good"]
    samples = {name: [] for name in ("all", *index.classes)}
    for weights in resamples(len(index), 25, 0).T:
        good, worse = (evaluate(*copied(index, entries[name], weights)) for name in ("good", "worse"))
        samples["all"].append(good.metrics["AP"] - worse.metrics["AP"])
        for name in index.classes:
            samples[name].append(good.per_class[name]["AP"] - worse.per_class[name]["AP"])
    assert (found.overall.low, found.overall.high) == pytest.approx(interval(np.array(samples["all"])), abs=1e-12)
    gains = [found.classes[name].value for name in index.classes]
    wanted = simultaneous(np.array(gains), np.array([samples[name] for name in index.classes]))
    assert [found.classes[name].low for name in index.classes] == pytest.approx(wanted[0].tolist(), abs=1e-12)
    assert [found.classes[name].high for name in index.classes] == pytest.approx(wanted[1].tolist(), abs=1e-12)


def test_differences_and_influence_are_pycocotools(two):
    index, entries = two
    found = compare_runs(index, entries, 5)
    good, worse = (evaluate(index, entries[name]) for name in ("good", "worse"))
    assert found.evaluations == {"worse": worse, "good": good}
    whole = good.metrics["AP"] - worse.metrics["AP"]
    assert found.differences["good"].overall.value == pytest.approx(whole, abs=1e-12)
    for i, image_id in enumerate(index.image_ids):
        others = index.subset(np.delete(np.arange(len(index)), i))
        left = [evaluate(others, entries[n][entries[n][:, 0] != image_id]).metrics["AP"] for n in ("good", "worse")]
        assert found.differences["good"].influence[i] == pytest.approx(whole - (left[0] - left[1]), abs=1e-12)


def test_the_same_detections_do_not_differ(two):
    index, entries = two
    found = compare_runs(index, {"a": entries["good"], "b": entries["good"]}, 20)
    assert found.differences["b"].overall == (0, 0, 0, 18 - (~images_with_objects(index).any(axis=0)).sum())
    assert found.differences["b"].overall.conclusion == "within the noise"
    assert most_influential_images(found.differences["b"]) == []
    assert largest_class_differences(found.differences["b"]) == {}
    assert [title for title, _ in sections(found, index)] == ["set/train, 18 images"]


def test_an_interval_says_better_worse_or_noise():
    assert PairedDifference(0.2, 0.1, 0.3, 50).conclusion == "better"
    assert PairedDifference(-0.2, -0.3, -0.1, 50).conclusion == "worse"
    assert PairedDifference(0.2, -0.1, 0.5, 50).conclusion == "within the noise"
    assert PairedDifference(0.2, 0.0, 0.5, 50).conclusion == "within the noise"
    assert PairedDifference(0.2, None, None, MIN_IMAGES - 1).conclusion == "too few images"
    assert PairedDifference(None, None, None, MIN_IMAGES).conclusion == "nothing to measure"


def test_few_images_have_no_interval(two):
    index, entries = two
    few = index.subset(range(MIN_IMAGES - 1))
    shown = {name: rows[np.isin(rows[:, 0], few.image_ids)] for name, rows in entries.items()}
    found = compare_runs(few, shown, 5)
    assert found.differences["good"].overall.low is None
    assert found.differences["good"].overall.value > 0
    assert found.differences["good"].overall.conclusion == "too few images"
    assert f"an interval needs objects on at least {MIN_IMAGES} images" in notes(found)


def test_a_class_on_few_images_does_not_affect_the_intervals_of_others(make_index):
    # the rare one is missing in some resamples, where it has no AP
    truths = [[(0, 0, 0, 20, 20)] for _ in range(20)]
    truths[3].append((1, 30, 30, 50, 50))
    index = make_index(*truths)
    rng = np.random.default_rng(0)
    rows = [
        (image, 0, 0, *size, rng.random(), index.category_ids[0]) for image in index.image_ids for size in ((20, 20),)
    ]
    first, other = (np.array(rows, dtype=float) for _ in range(2))
    first[:, 1:3] += rng.normal(0, 2, (20, 2))
    with_rare = compare_runs(index, {"a": first, "b": other}, 50).differences["b"]
    rare, common = index.classes[1], index.classes[0]
    assert with_rare.classes[rare].conclusion == "too few images"
    alone = compare_runs(make_index(*[[truth[0]] for truth in truths]), {"a": first, "b": other}, 50).differences["b"]
    assert with_rare.classes[common] == alone.classes[common]
    assert with_rare.classes[common].low is not None


def test_the_classes_and_images_that_differ_most_come_first():
    one = RunDifference(
        PairedDifference(0.1, 0.0, 0.2, 50),
        {
            "rare": PairedDifference(0.9, None, None, 2),
            "small": PairedDifference(0.01, -0.1, 0.1, 50),
            "none": PairedDifference(None, None, None, 0),
            "down": PairedDifference(-0.3, -0.4, -0.2, 50),
            "same": PairedDifference(0.0, 0.0, 0.0, 50),
        },
        np.array([0.1, -0.5, np.nan, 0.0, 0.2]),
    )
    assert list(largest_class_differences(one)) == ["down", "small", "rare"]
    assert list(largest_class_differences(one, 1)) == ["down"]
    assert most_influential_images(one) == [1, 4, 0]
    assert most_influential_images(one, 2) == [1, 4]


def test_a_split_without_objects_has_no_difference(make_index):
    index = make_index(*[()] * MIN_IMAGES)
    found = compare_runs(index, {"a": np.zeros((0, 7)), "b": np.zeros((0, 7))}, 5)
    assert found.differences["b"].overall == (None, None, None, 0)
    assert main_table(found)[1][1][-1] == "too few images"


def test_the_report(two):
    """Three entries: a note warns of chance."""
    index, entries = two
    found = compare_runs(index, {**entries, "again": entries["good"]}, 5)
    columns, rows = main_table(found)
    assert [row[0] for row in rows] == ["worse", "good", "again"]
    assert rows[0][7:] == [None, None, None, "baseline"]
    assert rows[1][7:] == [*found.differences["good"].overall[:3], found.differences["good"].overall.conclusion]
    assert columns[7] == "AP - worse"
    first = next(iter(largest_class_differences(found.differences["good"])))
    cells = dict(zip(*[class_table(found, "good", index)[0], class_table(found, "good", index)[1][0]]))
    assert cells["objects"] == index.class_counts()[first]
    assert cells["good"] - cells["worse"] == pytest.approx(cells["difference"])
    assert "2 entries are compared with the first" in notes(found)[0]
    page = to_page(sections(found, index), notes(found))
    assert "one interval of twenty excludes 0 by chance" in page
    assert "The classes shown are the extremes of 2, whose intervals hold simultaneously." in page
    document = to_document(found, index, 5)
    assert document["differences"]["good"]["AP"] == found.differences["good"].overall.value
    assert len(document["differences"]["good"]["images"]) == len(most_influential_images(found.differences["good"], 99))
    assert set(document["differences"]["good"]["per_class"]) == set(index.classes)


def test_sides_are_compared_over_runs_and_images(two):
    """Two runs a side: the pairs are pycocotools' APs, the image error that of the mean difference on resamples."""
    index, entries = two
    jittered = entries["worse"].copy()
    jittered[:, 1:3] += 1
    sides = {"a": {"a-seed0": entries["worse"], "a-seed1": jittered}, "b": {"b0": entries["good"], "b1": jittered}}
    found = compare_sides(index, sides, 25)
    ap = {name: evaluate(index, rows).metrics["AP"] for runs in sides.values() for name, rows in runs.items()}
    assert found.aps == {side: {name: ap[name] for name in runs} for side, runs in sides.items()}
    one = found.differences["b"]
    assert one.pairs == pytest.approx([ap["b0"] - ap["a-seed0"], 0], abs=1e-12)
    means = []
    for weights in resamples(len(index), 25, 0).T:
        aps = [evaluate(*copied(index, rows, weights)).metrics["AP"] for rows in (entries["good"], entries["worse"])]
        means.append((aps[0] - aps[1]) / 2)
    assert one.image_error == pytest.approx(np.std(means, ddof=1), abs=1e-12)
    columns, rows = side_sections(found, index)[0][1]
    assert columns[:3] == ["runs", "AP", "AP - a"]
    assert rows[1] == ["b", np.mean([ap["b0"], ap["b1"]]), *one[1:6], one.conclusion]
    assert side_sections(found, index)[1][1] == (
        ["pair", "a", "b"],
        [
            [1, f"a-seed0: {ap['a-seed0']:.4f}", f"b0: {ap['b0']:.4f}"],
            [2, *(f"{n}: {ap[n]:.4f}" for n in ("a-seed1", "b1"))],
        ],
    )
    assert side_notes(found)[0].startswith("b: 2 pairs detect a difference of ")
    assert side_document(found, index, 25)["differences"]["b"]["pairs"] == one.pairs


def test_the_intervals_of_several_sides_hold_together(two):
    """With three sides, each of the two differences has a level of 97.5 %, and is otherwise that of two sides."""
    index, entries = two
    good, worse = entries["good"], entries["worse"]
    sides = {"a": {"a0": worse, "a1": good}, "b": {"b0": good, "b1": good}, "c": {"c0": worse, "c1": worse}}
    two_sides = compare_sides(index, {name: sides[name] for name in "ab"}, 25)
    alone, both = two_sides.differences["b"], compare_sides(index, sides, 25)
    width, wide = (student_quantile(p, alone.freedom) * alone.standard_error for p in (0.975, 0.9875))
    assert alone.high - alone.value == pytest.approx(width)
    assert both.differences["b"].high - alone.value == pytest.approx(wide)
    assert both.differences["b"]._replace(level=0.95, low=alone.low, high=alone.high) == alone
    headings = [side_sections(sides, index)[0][1][0][3] for sides in (both, two_sides)]
    assert headings == ["97.5 % from", "95 % from"]
    assert side_notes(both)[-1].endswith("each interval has 97.5 %, so that all hold together with 95 %")
    assert len(side_notes(two_sides)) == 1


def test_sides_need_images(two):
    index, entries = two
    few = index.subset(np.arange(5))
    rows = entries["good"][np.isin(entries["good"][:, 0], few.image_ids)]
    with pytest.raises(UserError, match="an interval needs 10"):
        compare_sides(few, {"a": {"x": rows}, "b": {"y": rows}}, 5)


def test_pictures_show_truth_and_both_side_by_side(squares, tmp_path):
    """The middle panel's box is the truth's, the right one's lies elsewhere; a missing file is passed over."""
    index = open_source(squares).index("val", need_images=False)
    row = index.rows(1).start
    truth = [index.image_ids[1], *index.xywh[row], 0.9, index.category_ids[index.labels[row]]]
    faint = [index.image_ids[1], 0, 0, 9, 9, 0.1, truth[-1]]
    entries = {"a": np.array([truth, faint]), "b": np.array([faint])}
    gone = replace(index, paths=np.array([str(index.paths[0]) + "x", *index.paths[1:].tolist()]))
    assert save_side_by_side(tmp_path, gone, [0, 1], entries, 0.3) == 1
    (file,) = tmp_path.iterdir()
    assert file.name == "02-1.png"
    picture = read_image(str(file))
    width = (picture.shape[1] - 2 * 6) // 3
    left, middle, right = (picture[28:, k * (width + 6) : k * (width + 6) + width].astype(int) for k in range(3))
    x, y, w, _ = (index.xywh[row] * 420 / 80).round().astype(int)
    edge = (y, x + w // 2)
    assert not np.array_equal(middle, right)
    assert abs(left[edge] - middle[edge]).max() < 90
    assert abs(left[edge] - right[edge]).max() > 90
