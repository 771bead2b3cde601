"""Whatever a data set is given as: YAML, file, folder, name - and what is said when it is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from trees import draw, write_coco, write_labels, write_xml

from cledet.data.formats.paths import match_split
from cledet.data.open import open_source
from cledet.errors import UserError


def write(file: Path, text: str) -> Path:
    file.write_text(text, encoding="utf-8")
    return file


COCO_YAML = """
train: {images: train, annotations: annotations/instances_train.json}
val: annotations/instances_val.json
"""


def test_a_yaml_for_coco(squares: Path, tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "d.yaml", f"path: {squares}\nnames: {{0: red, 1: blue}}\n{COCO_YAML}"))
    index = source.index("val")
    assert source.splits == ("train", "val")
    assert index.name == "d/val"
    assert index.classes == ("red", "blue")
    assert index.category_ids.tolist() == [7, 3]
    assert len(source.index("train")) == 6


def test_a_yaml_for_voc(shared_data: Path, tmp_path: Path) -> None:
    text = f"path: {shared_data}/bccd\ntrain: [train, val]\nval: test\nnames: [WBC, RBC, Platelets]"
    source = open_source(write(tmp_path / "d.yml", text))
    index = source.index("train")
    assert (len(index), index.classes) == (292, ("WBC", "RBC", "Platelets"))
    assert len(source.index("val")) == 72
    wrong = write(tmp_path / "e.yaml", text.replace("Platelets", "Platelet"))
    with pytest.raises(UserError, match=r"boxes are of an unknown class.*'Platelets' \(did you mean Platelet\?\)"):
        open_source(wrong).index("train")


def test_paths_are_relative_to_the_yaml(squares: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    file = write(squares / "d.yaml", COCO_YAML)
    try:
        assert len(open_source(file).index("val")) == 4
    finally:
        file.unlink()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("trian: a.json\nval: b.json", "unknown key 'trian'.*did you mean train"),
        ("val: {anotations: b.json}", "did you mean annotations|'val.annotations' is missing"),
        ("val: {annotations: b.json, image: x}", r"unknown key 'val\.image'.*did you mean images"),
        ("val: {images: x}", r"'val\.annotations' is missing"),
        ("format: cooc\nval: b.json", "unknown format 'cooc'.*did you mean coco"),
        ("names: 3\nval: b.json", "'names' is invalid"),
        ("val: [", "is not valid YAML"),
        ("just words", "describes no data set"),
        ("names: [a]\nformat: coco", "names no split"),
    ],
)
def test_a_wrong_yaml_is_explained(tmp_path: Path, text: str, words: str) -> None:
    file = write(tmp_path / "d.yaml", text)
    with pytest.raises(UserError, match=words) as caught:
        open_source(file)
    assert str(file) in str(caught.value)


def test_a_yaml_may_name_more_splits(squares: Path, tmp_path: Path) -> None:
    text = f"path: {squares}\nformat: coco\nsplits: {{2017: x}}"
    with pytest.raises(UserError, match=r"'splits.*valid string"):
        open_source(write(tmp_path / "d.yaml", text))
    source = open_source(write(tmp_path / "e.yaml", text.replace("{2017: x}", "{all: annotations/instances_val.json}")))
    assert source.splits == ("all",)
    assert len(source.index("val")) == 4  # the only split serves as any
    with pytest.raises(UserError, match=r"'all' names .*it is longer than a path can be"):
        open_source(write(tmp_path / "f.yaml", text.replace("{2017: x}", "{all: %s}" % ("a" * 2000))))


def test_an_unknown_split_names_those_that_exist(squares: Path) -> None:
    with pytest.raises(UserError, match=r"no split 'test'.*train, val"):
        open_source(squares).index("test")


@pytest.mark.parametrize(
    ("asked", "splits", "found"),
    [
        ("val", ["train", "valid"], "valid"),
        ("val", ["train2017", "val2017"], "val2017"),
        ("train", ["training", "test"], "training"),
        ("val2017", ["val"], "val"),
        ("val", ["val", "val2017"], "val"),
        ("val", ["val2014", "val2017"], None),
        ("test", ["train", "val"], None),
        ("train", ["custom_train", "custom_val"], "custom_train"),
        ("val", ["custom_train", "my-valid-2"], "my-valid-2"),
        ("test", ["test2017", "test-dev2017"], "test2017"),
        ("train", ["a_train", "b_train"], None),
        ("train", ["trainval", "val"], None),
        ("train", ["strain", "retrained"], None),
    ],
)
def test_splits_have_aliases(asked: str, splits: list[str], found: str | None) -> None:
    assert match_split(asked, splits) == found


def yolo(folder: Path, names: str) -> None:
    for split in ("train", "valid"):
        draw(folder, f"images/{split}/1.jpg")
        write_labels(folder / f"labels/{split}/1.txt")
    if names:
        write(folder / names, "path: /content/set\ntrain: images/train\nval: images/valid\nnames: [nut]\n")


@pytest.mark.parametrize("name", ["", "mine.yaml", "data.yml", "dataset.YAML"])
def test_a_yaml_of_any_name_in_the_folder_describes_it(tmp_path: Path, name: str) -> None:
    yolo(tmp_path, name)
    write(tmp_path / "args.yaml", "train: {batch: 8}\nval: true\nnames: x\n")  # settings of another program
    write(tmp_path / "broken.yaml", "train: [")
    source = open_source(tmp_path)
    assert source.splits == (("train", "val") if name else ("train", "valid"))
    assert source.index("val").classes == (("nut",) if name else ("0",))


def test_several_yaml_files_are_ambiguous(tmp_path: Path) -> None:
    yolo(tmp_path, "a.yaml")
    yolo(tmp_path, "b.yaml")
    with pytest.raises(UserError, match=r"several data set files: a.yaml and b.yaml \(pass one of them as --data"):
        open_source(tmp_path)
    yolo(tmp_path, "data.yaml")
    assert open_source(tmp_path).splits == ("train", "val")


def test_a_split_without_the_others_serves_itself_only(tmp_path: Path) -> None:
    """A folder called train is no undivided set; one file of COCO is, whatever it is called."""
    draw(tmp_path, "train/1.jpg", "test/2.jpg")
    write_xml(tmp_path / "train/1.xml")
    assert open_source(tmp_path).find("val") is None
    coco = tmp_path / "coco"
    draw(coco, "1.jpg")
    write_coco(coco / "custom_train.json", ["1.jpg"])
    assert open_source(coco).find("val") == "custom_train"


def test_folders_in_a_circle_are_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").symlink_to(tmp_path / "a")
    with pytest.raises(UserError, match="holds neither"):
        open_source(tmp_path)


def test_a_missing_path_is_named_with_its_neighbours(squares: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not found.*annotations, train, val.*shapes"):
        open_source(squares / "xyzzy.yaml")
    with pytest.raises(UserError, match="did you mean annotations"):
        open_source(squares / "anotations")
    with pytest.raises(UserError, match="it is empty"):
        open_source(tmp_path)
    write(tmp_path / "a.txt", "")
    with pytest.raises(UserError, match=r"neither COCO nor Pascal VOC nor YOLO.*it holds 1 .txt"):
        open_source(tmp_path)
    with pytest.raises(UserError, match="is no data set"):
        open_source(tmp_path / "a.txt")


def test_nothing_is_written_beside_the_data(squares: Path) -> None:
    before = sorted(squares.rglob("*"))
    open_source(squares).index("train")
    assert sorted(squares.rglob("*")) == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train: images\nnc: 2000000000", "'nc' is invalid: .*less than or equal to 32768"),
        ("train: images\nnc: -1", "'nc' is invalid"),
        ("train: images\nnames: {2020-01-01: a}", "'names' is invalid: .*invalid literal"),
        ("train: images\nnames: {~: a}", "'names' is invalid: .*names must be numbered by integers"),
        ("train: images\nnames: {.inf: a}", "'names' is invalid: .*names must be numbered by integers"),
        ("train: images\nnames: [a, ~]", "'names' is invalid: .*each name must be a string: put quotes around null"),
        ("train: images\nnames: [[a]]", "'names' is invalid: .*each name must be a string"),
        ("train: images\nformat: [yolo]", r"unknown format '\['yolo'\]'"),
        ("train: images\nformat: {a: b}", "unknown format"),
        (f"train: {'x' * 300}\nnc: 1", "'train' names 'xxx.*it is longer than a path can be"),
        (f"val: {'x/' * 700}", "'val' names .*it is longer than a path can be"),
        (f"val: {{images: {'x' * 300}, annotations: b.json}}", "'val' names .*it is longer than a path can be"),
        (f"path: {'x' * 300}\nval: images", "'path' names .*it is longer than a path can be"),
        ("path: ~nosuchuser/x\nval: pictures", "the data set's `path` not found: .*~nosuchuser/x"),
        ("path: [a]\nval: images", "'path' is invalid: Input should be a valid string"),
        ("path: [a]\nval: pictures", "the data set's `path` not found"),
        ("path: 2020-01-01\nval: 2020-01-01", "the data set's `path` not found"),
    ],
)
def test_values_of_another_type(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match=words):
        open_source(write(tmp_path / "d.yaml", text)).index("train")


@pytest.mark.parametrize("path", ["x" * 300, "x/" * 3000, "a\0b", "~nosuchuser/x", "\ud800"])
def test_a_path_that_no_file_has_is_not_found(path: str) -> None:
    with pytest.raises(UserError, match="data set not found"):
        open_source(path)
