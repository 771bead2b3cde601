"""Whole data sets: fetched, unpacked, moved into place; interrupted anywhere; and never where something else is."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from trees import contents, draw, write_labels

from cledet.data.download import download
from cledet.data.download import extract as unpack
from cledet.data.download.archives import SHIPPED, open_set
from cledet.data.open import open_source
from cledet.data.shapes import dataset as shapes
from cledet.errors import UserError


def quiet(title, total):
    return nullcontext(SimpleNamespace(set=lambda done, total: None, note=lambda text: None))


def zip_of(folder: Path, *names: str) -> bytes:
    """A zip of some of the entries of a folder."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for file in sorted(path for name in names for path in (folder / name).rglob("*")):
            archive.write(file, file.relative_to(folder))
    return stream.getvalue()


def entry(server, name: str, content: bytes, **more: str) -> dict[str, object]:
    """Serve an archive; returns what the YAML says of it."""
    server.files[name] = content
    sha256 = hashlib.sha256(content).hexdigest()
    return {"url": f"{server.url}/{name}", "bytes": len(content), "sha256": sha256, **more}


@pytest.fixture
def described(server, squares, tmp_path):
    """A YAML that describes the squares, as two archives of the server."""
    content = {
        "path": "s",
        "train": {"images": "train", "annotations": "annotations/instances_train.json"},
        "val": {"images": "val", "annotations": "annotations/instances_val.json"},
        "archives": [
            entry(server, "notes.zip", zip_of(squares, "annotations", "val")),
            entry(server, "train.zip", zip_of(squares, "train")),
        ],
    }
    return write(tmp_path / "d" / "squares.yaml", content)


def write(file: Path, content: dict[str, object]) -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_text(yaml.safe_dump(content))
    return file


def change(file: Path, **changes: object) -> Path:
    return write(file, yaml.safe_load(file.read_text()) | changes)


def get(file: Path | str, to: Path | None = None, keep: bool = False) -> bool:
    return download.download(open_set(str(file), to), quiet, keep=keep)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def stop_at(monkeypatch, module, name: str, number: int, after: bool = False) -> None:
    """Let the numbered call of a function be interrupted, before or after it does its work; later ones go through."""
    function, calls = getattr(module, name), []

    def stopping(*args, **kwargs):
        calls.append(args)
        if len(calls) == number and not after:
            raise KeyboardInterrupt
        result = function(*args, **kwargs)
        if len(calls) == number:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(module, name, stopping)


def test_a_downloaded_data_set_is_in_place_and_opens(server, described, squares):
    assert get(described)
    assert tree(described.parent / "s") == tree(squares)
    assert names(described.parent) == {"s", "squares.yaml"}
    content = yaml.safe_load(described.read_text())
    del content["archives"]
    source = open_source(write(described.parent / "plain.yaml", content))
    assert (len(source.index("train")), len(source.index("val"))) == (6, 4)


def test_a_yolo_data_set_is_downloaded(server, squares, tmp_path):
    for split in ("train", "val"):
        draw(tmp_path, f"y/images/{split}/1.jpg")
        write_labels(tmp_path / f"y/labels/{split}/1.txt")
    archives = [entry(server, "y.zip", zip_of(tmp_path / "y", "images", "labels"))]
    content = {"path": "y", "train": "images/train", "val": "images/val", "names": ["nut"], "archives": archives}
    file = write(tmp_path / "d" / "my.yaml", content)
    assert get(file)
    assert not get(file)
    assert contents(open_source(file), tmp_path / "d") == {
        split: [f"y/images/{split}/1.jpg"] for split in ("train", "val")
    }


def test_a_second_download_does_nothing(server, described):
    get(described)
    before = tree(described.parent)
    server.asked.clear()
    assert not get(described)
    assert server.asked == []
    assert tree(described.parent) == before


def test_a_data_set_that_the_user_has_is_recognised(server, described, squares, tmp_path):
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "s").symlink_to(squares)
    assert not get(described, tmp_path / "to")
    assert server.asked == []
    assert (tmp_path / "to" / "squares.yaml").read_bytes() == described.read_bytes()


def test_a_download_to_another_folder_has_a_matching_yaml(described, squares, tmp_path):
    assert get(described, tmp_path / "x" / "to")
    assert names(tmp_path / "x" / "to") == {"s", "squares.yaml"}
    assert names(described.parent) == {"squares.yaml"}
    assert not get(tmp_path / "x" / "to" / "squares.yaml")


def test_another_yaml_is_not_overwritten(server, described, tmp_path):
    (tmp_path / "squares.yaml").write_text("path: mine")
    with pytest.raises(UserError, match=r"squares.yaml exists and differs from .*d/squares\.yaml"):
        get(described, tmp_path)
    assert server.asked == []
    assert (tmp_path / "squares.yaml").read_text() == "path: mine"
    (tmp_path / "squares.yaml").write_text("# mine\n" + described.read_text())
    assert get(described, tmp_path)
    assert (tmp_path / "squares.yaml").read_text().startswith("# mine")


def test_a_tar_that_holds_the_root_itself(server, tmp_path):
    """As VOC's do: several archives fill one folder, which is the root."""
    listed = []
    for year, name in (("2007", "trainval"), ("2007", "test"), ("2012", "trainval")):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            info = tarfile.TarInfo(f"VOCdevkit/VOC{year}/ImageSets/Main/{name}.txt")
            archive.addfile(info)
        listed.append(entry(server, f"{year}{name}.tar", stream.getvalue(), folder=".."))
    splits = {"train": ["VOC2007/trainval", "VOC2012/trainval"], "val": "VOC2007/test"}
    file = write(tmp_path / "d" / "voc.yaml", {"path": "voc/VOCdevkit", "archives": listed, **splits})
    assert get(file)
    assert names(tmp_path / "d" / "voc") == {"VOCdevkit"}
    assert names(tmp_path / "d" / "voc" / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main") == {
        "trainval.txt",
        "test.txt",
    }
    assert not get(file)


def test_the_yamls_own_folder_may_be_the_root(described, squares):
    change(described, path=".")
    (described.parent / "val").mkdir()
    with pytest.raises(UserError, match=r"d/val exists, but .*d/train does not"):
        get(described)
    (described.parent / "val").rmdir()
    (described.parent / "mine.txt").touch()
    assert get(described)
    assert names(described.parent) == {"squares.yaml", "mine.txt", "annotations", "train", "val"}


def test_an_archive_may_go_into_a_folder_that_is_there(server, described, squares):
    content = yaml.safe_load(described.read_text())
    content["archives"][1]["folder"] = "photos"
    content["train"]["images"] = "photos/train"
    write(described, content)
    (described.parent / "s" / "photos").mkdir(parents=True)
    (described.parent / "s" / "photos" / "mine.jpg").touch()
    assert get(described)
    assert names(described.parent / "s" / "photos") == {"mine.jpg", "train"}
    assert names(described.parent / "s") == {"annotations", "val", "photos"}


STEPS = [
    (download, "fetch"),
    (unpack, "_write"),
    (download, "unpack"),
    (download, "_move_into_place"),
]


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", STEPS, ids=[name for _, name in STEPS])
def test_a_download_interrupted_at_any_step_is_not_a_data_set_and_resumes(
    server, described, squares, monkeypatch, step, number, after
):
    with monkeypatch.context() as patch:
        stop_at(patch, *step, number, after)
        with pytest.raises(KeyboardInterrupt) if (step[1], number) != ("_move_into_place", 2) else nullcontext():
            get(described)
    chosen = open_set(str(described))
    assert chosen.complete == (step[1] == "_move_into_place" and (after or number == 2))
    if chosen.root.exists() and not chosen.complete:
        assert names(chosen.root) == {"squares.part"}
    get(described)
    assert tree(chosen.root) == tree(squares)
    assert len(server.asked) == 2


def test_a_download_interrupted_while_moving_files_is_not_a_data_set_and_resumes(
    server, described, squares, monkeypatch
):
    rename, moved = Path.rename, []

    def renaming(path, target):
        if len(moved) == 2:  # after the work folder's own and the first
            raise KeyboardInterrupt
        moved.append(target)
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", renaming)
        with pytest.raises(KeyboardInterrupt):
            get(described)
    chosen = open_set(str(described))
    assert names(chosen.root) == {"annotations", "squares.part"}
    assert not chosen.complete
    server.asked.clear()
    assert get(described)
    assert server.asked == []
    assert tree(chosen.root) == tree(squares)


def test_a_download_interrupted_while_cleaning_up_is_complete(server, described, squares, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, download.shutil, "rmtree", 1)
        with pytest.raises(KeyboardInterrupt):
            get(described)
    chosen = open_set(str(described))
    assert chosen.work.exists()
    (chosen.work / "ready").rmdir()
    server.asked.clear()
    assert not get(described)
    assert server.asked == []
    assert tree(chosen.root) == tree(squares)


def test_an_archive_that_was_published_anew_is_unpacked_anew(server, described, squares):
    content = yaml.safe_load(described.read_text())
    old = zip_of(squares, "annotations")
    write(described, content | {"archives": [entry(server, "notes.zip", old), content["archives"][1]]})
    server.refusals = [0, 404]
    with pytest.raises(UserError, match="404"):
        get(described)
    content["archives"][0] = entry(server, "notes.zip", zip_of(squares, "annotations", "val"))
    write(described, content)
    with pytest.raises(UserError, match=r"notes\.zip has .* the next attempt starts over"):
        get(described)
    assert get(described)
    assert tree(described.parent / "s") == tree(squares)


def test_archives_are_kept_if_asked_for_and_then_used(server, described, squares):
    get(described, keep=True)
    assert names(described.parent) == {"s", "squares.yaml", "notes.zip", "train.zip"}
    (described.parent / "s").rename(described.parent / "old")
    server.asked.clear()
    assert get(described)
    assert server.asked == []
    assert tree(described.parent / "s") == tree(squares)
    assert names(described.parent) == {"s", "old", "squares.yaml", "notes.zip", "train.zip"}


def test_a_wrong_archive_of_the_users_own_is_left_alone(server, described):
    own = described.parent / "train.zip"
    own.write_bytes(b"mine")
    with pytest.raises(UserError, match=r"d/train\.zip has 4 bytes, expected [\d,]+ \(move it away"):
        get(described)
    own.write_bytes(bytes(len(server.files["train.zip"])))
    with pytest.raises(UserError, match=r"d/train\.zip has the sha256 \w{64}, expected \w{64} \(move it away"):
        get(described)
    assert set(own.read_bytes()) == {0}


def test_a_wrong_archive_of_the_server_leaves_no_data_set(server, described):
    server.files["train.zip"] = bytes(len(server.files["train.zip"]))
    with pytest.raises(UserError, match=r"train\.zip\.\w{8}\.part has the sha256"):
        get(described)
    assert names(described.parent / "s") == {"squares.part"}


def test_existing_files_are_not_overwritten(server, described, squares):
    file = described.parent / "s" / "annotations"
    file.parent.mkdir()
    file.write_text("mine")
    with pytest.raises(UserError, match=r"s/annotations is in the way of the extracted files \(move it away"):
        get(described)
    assert names(file.parent) == {"annotations", "squares.part"}
    file.unlink()
    server.asked.clear()
    assert get(described)
    assert server.asked == []
    assert tree(file.parent) == tree(squares)


def test_a_users_partial_data_set_is_not_completed(server, described):
    (described.parent / "s" / "train").mkdir(parents=True)
    with pytest.raises(UserError, match=r"s/train exists, but .*instances_train\.json does not .*--to"):
        get(described)
    assert server.asked == []
    assert names(described.parent / "s") == {"train"}


def test_archives_without_the_files_of_the_splits(described, squares):
    change(described, val="annotations/instances_vla.json")
    with pytest.raises(UserError, match=r"names .*instances_vla.json, which is in none of its archives"):
        get(described)
    assert names(described.parent / "s") == {"squares.part"}
    change(described, val="annotations/instances_val.json")
    assert get(described)


def test_a_full_disk_is_an_error_before_the_download(server, described, monkeypatch):
    notes, train = (len(server.files[name]) for name in ("notes.zip", "train.zip"))
    needed = 2 * (notes + train)
    room = SimpleNamespace(free=needed - 1)
    monkeypatch.setattr(unpack.shutil, "disk_usage", lambda folder: room)
    with pytest.raises(UserError, match=r"to fetch and unpack squares takes .* free \(make room, or .*--to"):
        get(described)
    assert server.asked == []
    assert names(described.parent) == {"squares.yaml"}
    room.free = needed
    assert get(described)
    (described.parent / "s").rename(described.parent / "old")
    (described.parent / "train.zip").write_bytes(server.files["train.zip"])
    room.free = 2 * notes  # an archive that is there is not counted: how large it gets is asked when it is opened
    assert room.free < needed
    assert get(described)


def test_a_download_without_data_leaves_no_files(described, server):
    server.refusals = [404]
    with pytest.raises(UserError, match="404"):
        get(described)
    assert names(described.parent) == {"squares.yaml"}


def test_an_empty_folder_of_the_users_own_stays(described, server):
    (described.parent / "s").mkdir()
    server.refusals = [404]
    with pytest.raises(UserError, match="404"):
        get(described)
    assert names(described.parent) == {"squares.yaml", "s"}


def test_a_folder_that_cannot_be_written(described, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/s.* could not be written: Not a directory \(choose another folder"):
        get(described, tmp_path / "file")


def test_two_downloads_at_once_are_refused(described):
    chosen = open_set(str(described))
    with download._work_folder(chosen), pytest.raises(UserError, match="another process is fetching squares"):
        download.download(chosen, quiet)
    assert get(described)


def test_shapes_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setenv("CLEDET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shapes.draw_shapes, "__defaults__", ({"train": 2, "val": 1, "test": 1}, 0))
    assert get("shapes")
    assert not get("shapes")
    assert names(tmp_path / "cache") == {"shapes-3"}
    assert get("shapes", tmp_path / "to")
    assert len(open_source(tmp_path / "to" / "shapes.yaml").index("train")) == 2


def test_the_list_shows_the_state_of_each_data_set(tmp_path, monkeypatch):
    monkeypatch.setenv("CLEDET_CACHE", str(tmp_path))
    open_set("voc").work.mkdir(parents=True)
    for path in open_set("coco").wanted:
        path.mkdir(parents=True)
    states = {each["name"]: (each["state"], each["bytes"]) for each in (open_set(name).to_dict() for name in SHIPPED)}
    assert states == {"coco": ("there", 20_405_354_669), "shapes": ("not there", 0), "voc": ("begun", 2_910_691_840)}


def test_the_work_folder_is_on_the_disk_of_the_data_set(tmp_path):
    chosen = replace(open_set("coco"), root=tmp_path / "big" / "coco")
    assert chosen.work == tmp_path / "big" / "coco" / "coco.part"
