"""What YAML files say of archives: those that ship, and those with mistakes."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from cledet.data.download.archives import SETS, SHIPPED, Archive, open_set
from cledet.data.formats.data_yaml import FORMATS
from cledet.data.formats.voc import VOC_CLASSES
from cledet.data.shapes.dataset import VERSION, shapes_folder
from cledet.errors import UserError

URL = "https://host.example/a%20b/images.zip"
SHA = "0" * 64


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLEDET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(folder: Path, text: str, name: str = "d.yaml") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def described(path: str = "p", folder: str = ".", **changes: object) -> str:
    archive = {"url": URL, "bytes": 1, "sha256": SHA, "folder": folder} | changes
    archive = {key: value for key, value in archive.items() if value is not None}
    return yaml.safe_dump({"path": path, "val": "v.json", "archives": [archive]})


def test_shipped_data_sets(cache):
    assert SHIPPED == ("coco", "shapes", "voc")
    assert [open_set(name).root for name in SHIPPED] == [
        cache / "coco",
        cache / "shapes-3",
        cache / "voc" / "VOCdevkit",
    ]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_yaml_is_a_valid_data_file(name):
    content = yaml.safe_load((SETS / f"{name}.yaml").read_text())
    content.pop("archives", None)
    kind = FORMATS["voc" if name == "voc" else "coco"]
    assert kind.model_validate(content).path == content["path"]
    assert {"train", "val"} <= content.keys()


@pytest.mark.parametrize(("name", "host"), [("coco", "images.cocodataset.org"), ("voc", "thor.robots.ox.ac.uk")])
def test_shipped_archives_are_of_the_official_hosts_and_have_digest_and_size(name, host):
    archives = open_set(name).archives
    assert len(archives) == 3
    for archive in archives:
        assert urlsplit(archive.url).hostname == host
        assert urlsplit(archive.url).scheme in ("http", "https")
        assert re.fullmatch("[0-9a-f]{64}", archive.sha256)
        assert archive.bytes > 100_000_000


def test_coco_as_published():
    coco = open_set("coco")
    assert {archive.name for archive in coco.archives} == {
        "train2017.zip", "val2017.zip", "annotations_trainval2017.zip",
    }  # fmt: skip
    assert {str(path.relative_to(coco.root)) for path in coco.wanted} == {
        "train2017", "val2017", "annotations/instances_train2017.json", "annotations/instances_val2017.json",
    }  # fmt: skip
    assert coco.top == coco.root
    assert sum(archive.bytes for archive in coco.archives) == 20_405_354_669


def test_voc_as_published(cache):
    voc = open_set("voc")
    assert {archive.name for archive in voc.archives} == {
        "VOCtrainval_06-Nov-2007.tar", "VOCtest_06-Nov-2007.tar", "VOCtrainval_11-May-2012.tar",
    }  # fmt: skip
    lists = ("VOC2007/ImageSets/Main/trainval", "VOC2012/ImageSets/Main/trainval", "VOC2007/ImageSets/Main/test")
    assert voc.wanted == tuple(cache / "voc" / "VOCdevkit" / f"{name}.txt" for name in lists)
    assert {voc.target(archive) for archive in voc.archives} == {cache / "voc"}
    assert voc.top == cache / "voc"
    assert yaml.safe_load(voc.file.read_text())["names"] == list(VOC_CLASSES)


def test_no_two_archives_share_a_digest_or_a_size():
    archives = [archive for name in ("coco", "voc") for archive in open_set(name).archives]
    assert len({archive.sha256 for archive in archives}) == len({archive.bytes for archive in archives}) == 6


def test_shapes_is_drawn(cache, monkeypatch):
    shapes = open_set("shapes")
    assert shapes.root.name == f"shapes-{VERSION}"
    monkeypatch.setattr("cledet.data.shapes.dataset.draw_shapes.__defaults__", ({"train": 1, "val": 1, "test": 1}, 0))
    assert not shapes.complete
    assert shapes_folder() == shapes.root
    assert shapes.complete


def test_a_name_may_have_a_suffix_and_a_file_of_that_name_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert open_set("coco.yaml") == open_set("coco")
    write(tmp_path, described(), "coco.yaml")
    assert open_set("coco.yaml").root == tmp_path / "p"
    write(tmp_path, "no YAML of ours", "coco")
    assert open_set("coco").root == tmp_path / "cache" / "coco"


def test_a_yaml_of_the_users_own(tmp_path):
    chosen = open_set(write(tmp_path, described(folder="x/y")))
    (archive,) = chosen.archives
    assert (chosen.name, chosen.home, chosen.root) == ("d", tmp_path, tmp_path / "p")
    assert (archive.name, archive.digest) == ("images.zip", ("sha256", SHA))
    assert chosen.target(archive) == tmp_path / "p" / "x" / "y"
    assert (chosen.top, chosen.work) == (tmp_path / "p", tmp_path / "p" / "d.part")
    assert chosen.copy is None
    moved = open_set(str(chosen.file), tmp_path / "to")
    assert (moved.root, moved.copy) == (tmp_path / "to" / "p", tmp_path / "to" / "d.yaml")


def test_an_existing_root_alone_is_not_a_data_set(tmp_path):
    text = described().replace("v.json", "{images: ., annotations: v.json}")
    assert open_set(write(tmp_path, text)).wanted == (tmp_path / "p" / "v.json",)


@pytest.mark.parametrize(
    ("splits", "wanted"),
    [
        ("train: images/train\nval: images/val\nnames: [a]", "images/train images/val"),
        ("train: [a/images, b.txt]\nval: val\nnc: 2", "a/images b.txt val"),
        ("train: ../train/images\nval: ..\\valid\\images\nnames: [a]", "train/images valid/images"),  # Roboflow
        ("train: train/images\nvalidation: valid/images", "train/images valid/images"),
        ("train: train\nformat: yolo", "train"),
        ("train: trainval\nval: [VOC2012/val]", "ImageSets/Main/trainval.txt VOC2012/ImageSets/Main/val.txt"),
        ("train: year.1/my.list\nformat: voc", "year.1/ImageSets/Main/my.list.txt"),
    ],
)
def test_what_is_wanted_of_a_data_set(tmp_path: Path, splits: str, wanted: str) -> None:
    archives = yaml.safe_dump({"archives": [{"url": URL, "bytes": 1, "sha256": SHA}]})
    chosen = open_set(write(tmp_path, f"path: p\n{splits}\n{archives}"))
    assert chosen.wanted == tuple(tmp_path / "p" / path for path in wanted.split())


def test_a_path_elsewhere_is_the_users_choice_but_archives_stay_in_it(tmp_path):
    big = tmp_path / "big" / "disk"
    (tmp_path / "yaml").mkdir()
    assert open_set(write(tmp_path / "yaml", described(str(big), "x"))).root == big
    for path, folder in ((str(big), ".."), ("p", "../.."), ("p", "/etc"), ("../data", "../..")):
        with pytest.raises(UserError, match="would be unpacked to"):
            open_set(write(tmp_path / "yaml", described(path, folder)))
    with pytest.raises(UserError, match="'path' leads out of its folder, so --to cannot move it"):
        open_set(write(tmp_path / "yaml", described(str(big))), tmp_path / "to")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"url": "file:///etc/x.zip"}, r"'archives\[0\]\.url' is invalid: it must begin with https"),
        ({"url": "ftp://h/x.zip"}, "it must begin with https"),
        ({"url": "https:///x.zip"}, "it must begin with https"),
        ({"url": "http://h/a b.zip"}, "encode blanks as %20"),
        ({"url": "http://h/x.rar"}, r"it must end in \.zip"),
        ({"url": "http://h/.zip"}, r"it must end in \.zip"),
        ({"url": "http://h/a%2F..%5C..%5Cx.zip"}, r"it must end in \.zip"),
        ({"url": None}, r"'archives\[0\]\.url' is missing"),
        ({"bytes": 0}, r"'archives\[0\]\.bytes' is invalid"),
        ({"bytes": None}, r"'archives\[0\]\.bytes' is missing"),
        ({"sha256": "abc"}, r"'archives\[0\]\.sha256' is invalid"),
        ({"sha256": None}, r"'archives\[0\]' is invalid: it has no digest.*sha256sum"),
        ({"sha265": SHA}, r"unknown key 'archives\[0\]\.sha265'.*did you mean sha256"),
    ],
)
def test_mistakes_in_an_archive(tmp_path, changes, words):
    with pytest.raises(UserError, match=words) as caught:
        open_set(write(tmp_path, described(**changes)))
    assert str(tmp_path / "d.yaml") in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("val: v.json", "names nothing to download.*add archives"),
        ("val: v.json\narchives: 3", "'archives' is invalid"),
        ("val: [", "is not valid YAML"),
        ("words", "describes no data set"),
        (described().replace("val: v.json\n", ""), "names no split"),
        (described().replace("v.json", "3"), "names no split"),
        (f"val: v.json\narchives: {[{'url': URL, 'bytes': 1, 'sha256': SHA}] * 2}", "names two archives images.zip"),
    ],
)
def test_mistakes_in_a_yaml(tmp_path, text, words):
    with pytest.raises(UserError, match=words):
        open_set(write(tmp_path, text))


@pytest.mark.parametrize(
    ("name", "words"), [("cocoo", "did you mean coco"), ("nowhere/vco.yaml", "did you mean voc"), ("x", "choose from")]
)
def test_an_unknown_name(name, words):
    with pytest.raises(UserError, match=rf"{name} is neither a YAML file nor a shipped data set.*{words}"):
        open_set(name)


def test_md5_is_the_digest_where_there_is_no_other():
    assert Archive(url=URL, bytes=1, md5="1" * 32).digest == ("md5", "1" * 32)
    assert Archive(url=URL, bytes=1, md5="1" * 32, sha256=SHA).digest == ("sha256", SHA)
