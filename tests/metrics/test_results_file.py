"""Results files survive a round trip; malformed ones are refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cledet.errors import UserError
from cledet.metrics.results_file import encode_results, read_results


@pytest.fixture
def index(make_index):
    return make_index([(0, 0, 0, 10, 10)], [])


def test_results_survive_a_round_trip(index, tmp_path):
    rng = np.random.default_rng(0)
    results = rng.uniform(-1, 1, (50, 7)) * 10.0 ** rng.integers(-9, 9, (50, 7))
    results[:, 0], results[:, 6] = rng.integers(0, 2, 50), rng.integers(1, 3, 50)
    file = tmp_path / "results.json"
    file.write_bytes(encode_results(results))
    np.testing.assert_array_equal(read_results(file, index), results)
    entry = json.loads(file.read_text())[7]
    assert entry["bbox"] == results[7, 1:5].tolist()
    assert (entry["image_id"], entry["score"], entry["category_id"]) == tuple(results[7, [0, 5, 6]])
    assert encode_results(results[:0]) == b"[]"


def test_everything_that_json_accepts_is_accepted(index, tmp_path):
    """Other keys, whole numbers, and ids written as floats."""
    file = tmp_path / "results.json"
    file.write_text('[{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 1, "segmentation": [[1, 2]]}]')
    assert read_results(file, index).tolist() == [[1, 1, 2, 3, 4, 1, 2]]
    file.write_text('[{"image_id": 1.0, "category_id": 2.0, "bbox": [1, 2, 3, 4], "score": 0.5}]')
    assert read_results(file, index).tolist() == [[1, 1, 2, 3, 4, 0.5, 2]]


ENTRY = '{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.5}'


@pytest.mark.parametrize("part", [0, 1, 70, 200, 10**6])
def test_a_file_is_read_the_same_in_parts_of_any_size(index, tmp_path, monkeypatch, part):
    """Among the entries: an object within one, and strings that look like the end of one."""
    monkeypatch.setattr("cledet.metrics.results_file.PART", part)
    rng = np.random.default_rng(0)
    rows = rng.uniform(0, 9, (9, 7))
    rows[:, 0], rows[:, 6] = rng.integers(0, 2, 9), rng.integers(1, 3, 9)
    file = tmp_path / "results.json"
    for separator in (b",", b", ", b" ,\n\t"):
        file.write_bytes(b"\n [" + separator.join(encode_results(rows[i : i + 1])[1:-1] for i in range(9)) + b"]\n")
        np.testing.assert_array_equal(read_results(file, index), rows)
    odd = ENTRY.replace("{", '{"a": [{"b": 1}, {"c": "}, {"}], "d": "[{},{},{", ')
    file.write_text(f"[{', '.join([odd, ENTRY] * 5)}]")
    assert read_results(file, index).tolist() == [[1, 1, 2, 3, 4, 0.5, 2]] * 10


@pytest.mark.parametrize("part", [0, 1, 70, 200, 10**6])
@pytest.mark.parametrize(
    "text",
    ["[{0},{0},]", "[{0},{0}", "[{0},{0}]]", "x[{0},{0}]", "[{0},,{0}]", "[{0}{0}]", "[{0},\f{0}]",
     '{{"a": [{0},{0}]}}', "[[{0},{0}]]", "[[{0}],{0}]", "[{0},{0}]{0}", "[{0},{0}],{0}]", ""],
)  # fmt: skip
def test_a_broken_list_is_refused_in_parts_too(index, tmp_path, monkeypatch, text, part):
    monkeypatch.setattr("cledet.metrics.results_file.PART", part)
    file = tmp_path / "results.json"
    file.write_text(text.format(ENTRY))
    with pytest.raises(UserError, match="not in COCO's results format"):
        read_results(file, index)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([(5, 1), (0, 1), (7, 1), (5, 1)], "names image ids that set/train does not have: 5, 7$"),
        ([(k, 1) for k in range(9)], "image ids .*: 2, 3, 4, 5, 6$"),
        ([(0, 3), (1, 1)], "category ids .*: 3$"),
        ([(0.5, 1)], r"image ids .*: 0\.5$"),
    ],
)
def test_unknown_ids_are_refused_by_name_once_each(index, tmp_path, rows, sentence):
    file = tmp_path / "results.json"
    entries = [{"image_id": i, "category_id": c, "bbox": [0, 0, 1, 1], "score": 1} for i, c in rows]
    file.write_text(json.dumps(entries))
    with pytest.raises(UserError, match=sentence):
        read_results(file, index)


def test_numbers_that_are_not_finite_are_refused(index, tmp_path):
    file = tmp_path / "results.json"
    file.write_text(
        '[{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 1},'
        ' {"image_id": 1, "category_id": 2, "bbox": [1, 2, Infinity, 4], "score": NaN}]'
    )
    with pytest.raises(UserError, match="1 detections hold numbers that are not finite, entry 1 first"):
        read_results(file, index)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "RecursionError|too deep|not in COCO"),
        ('[{"a": ' * 50_000, "not in COCO's results format"),
        ("[" + ENTRY.replace('"score": 0.5', f'"score": {10**400}') + "]", "not in COCO|not finite"),
        ("[" + ENTRY.replace('"image_id": 1', f'"image_id": {10**400}') + "]", "not in COCO's results format"),
        ("[" + ENTRY.replace('"image_id": 1', f'"image_id": {2**70}') + "]", "names image ids that set/train does not"),
        ("[" + ENTRY.replace('"image_id": 1', '"image_id": 1e300') + "]", "names image ids .*1e"),
        (
            "[" + ENTRY.replace("[1, 2, 3, 4]", "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]") + "]",
            r"Expected `array` of length 4, got 11 - at `\$\[0\].bbox`",
        ),
        (
            "[" + ", ".join([ENTRY.replace("[1, 2, 3, 4]", "[1, 2, 3]")] * 7) + "]",
            "`array` of length 4, got 3",
        ),
        ("[" + ENTRY.replace("[1, 2, 3, 4]", '{"a": 1, "b": 2, "c": 3, "d": 4}') + "]", "Expected `array`, got"),
        ("[" + ENTRY.replace("0.5", '"0.5"') + "]", "Expected `float`, got"),
        ("[" + ENTRY.replace("0.5", "true") + "]", "Expected `float`, got"),
        ("[" + ENTRY.replace("0.5", "null") + "]", "Expected `float`, got"),
        ('["abc"]', "Expected `object`, got `str`"),
        ('{"image_id": 1}', "Expected `array`, got"),
        ("3", "Expected `array`, got"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_malformed_entries_are_refused(index, tmp_path, text, words):
    file = tmp_path / "results.json"
    file.write_text(text)
    with pytest.raises(UserError, match=words) as refused:
        read_results(file, index)
    assert len(str(refused.value)) < 600


def test_a_folder_is_refused(index, tmp_path):
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_results(tmp_path, index)
