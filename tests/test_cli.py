"""The command as users type it, in a process of its own: exit codes, one red sentence, clean stdout."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from cledet import __version__, cli
from cledet.config.types import NMS_METHODS
from cledet.errors import ProcessFailed

pytestmark = pytest.mark.slow


def run(*args, cwd=None, **environ):
    """Run `cledet ARGS`; returns the finished process."""
    command = [sys.executable, "-m", "cledet", *map(str, args)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environ}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False)


def sentence(process):
    """The error of a command that ended as a user's mistake should: code 2, one line, no traceback."""
    assert process.returncode == 2, process.stderr
    lines = [line for line in process.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, process.stderr
    assert "Traceback" not in process.stderr
    assert process.stdout == ""
    return lines[0]


def flags(tiny):
    return [word for key, value in tiny.items() for word in (f"--{key.replace('_', '-')}", str(value))]


@pytest.fixture(scope="module")
def project(tiny, tmp_path_factory):
    """A folder in which `cledet train` has run once; the process is kept beside it."""
    folder = tmp_path_factory.mktemp("cli")
    return folder, run("train", *flags(tiny), "--json", cwd=folder)


def test_train_prints_one_json_document(project):
    folder, process = project
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout)
    assert result["run"].startswith("runs/train/squares")
    assert {"AP", "AP50", "per_class"} <= result.keys()
    assert (folder / result["run"] / "results.png").read_bytes().startswith(b"\x89PNG")
    assert re.search(
        r"^epoch 1: cls loss \d\.\d{3}, box loss .*\(best: epoch 1\), \d+ s$", process.stderr, re.MULTILINE
    )


def test_val_predict_and_export_take_the_newest_run(project, squares):
    folder, trained = project
    val = run("val", "--json", "--workers", 0, "--amp", "off", "--device", "cpu", cwd=folder)
    figures = json.loads(val.stdout)
    written = folder / "runs" / "val" / "val"
    assert json.loads((written / "metrics.json").read_text()) == figures
    assert figures.pop("nms_ms") > 0
    assert figures.pop("seconds")["network"] > 0
    misalignment = figures.pop("misalignment")
    assert figures.pop("analysis")["errors"]["missed"]["count"] > 0
    assert {k: v for k, v in json.loads(trained.stdout).items() if k != "run"} == figures
    detections = written / "detections.json"
    again = run("val", "--predictions", detections, "--data", squares, "--report", "false", "--json", cwd=folder)
    known = {key: misalignment[key] for key in ("spearman", "kept_iou")}
    assert json.loads(again.stdout) == figures | {"misalignment": known}
    predict = run("predict", squares / "val", "--conf", 0.02, cwd=folder)
    assert predict.returncode == 0, predict.stderr
    assert len(predict.stdout.splitlines()) == 4
    assert (folder / "runs" / "predict" / "val" / "predictions.json").is_file()
    pytest.importorskip("onnxruntime")
    export = run("export", "--format", "onnx", "--json", cwd=folder)
    assert Path(folder, json.loads(export.stdout)["path"]).is_file()


def test_val_compares_nms_methods_on_a_network_and_on_its_detections(project, squares):
    folder, _ = project
    process = run("val", "--nms", "all", "--bootstrap", 20, "--name", "methods", "--workers", 0, "--json", cwd=folder)
    methods = json.loads(process.stdout)["methods"]
    assert list(methods) == list(NMS_METHODS)
    assert all({"AP", "APl", "nms_ms", "misalignment", "per_class"} <= figures.keys() for figures in methods.values())
    assert ["gain" in figures for figures in methods.values()] == [False] + [True] * (len(NMS_METHODS) - 1)
    written = folder / "runs" / "val" / "methods"
    assert {path.name for path in written.iterdir()} == {"config.yaml", "metrics.json", "nms.csv", "nms.md"}
    assert len((written / "nms.csv").read_text().splitlines()) == 1 + len(NMS_METHODS)
    (folder / "found.json").write_text('[{"image_id": 101, "category_id": 3, "bbox": [0, 0, 9, 9], "score": 0.5}]')
    table = run("val", "--predictions", "found.json", "--data", squares, "--nms", "soft,diou", cwd=folder)
    for word in ("soft", "diou", "AP75", "ms per image", "rank correlation", "best IoU in cluster"):
        assert word in table.stdout
    assert "standard" not in table.stdout


def test_explain_draws_one_image(project, squares):
    folder, _ = project
    explain = run("explain", squares / "val" / "1.png", "--device", "cpu", "--score-threshold", 0.4, cwd=folder)
    assert explain.returncode == 0, explain.stderr
    assert explain.stdout == "runs/explain/1/explain.png\n"
    assert (folder / explain.stdout.strip()).read_bytes().startswith(b"\x89PNG")
    again = run("explain", squares / "val" / "1.png", "--json", "--name", "other", cwd=folder)
    document = json.loads(again.stdout)
    assert document == json.loads((folder / "runs" / "explain" / "other" / "explain.json").read_text())
    assert document["settings"]["score_threshold"] == 0.5
    assert [thing["by_iou"] > 0 for thing in document["objects"]] == [True, True]


@pytest.mark.parametrize(
    ("words", "files"),
    [
        ("val --workers 0", ["val/*/metrics.json", "val/*/report.html"]),
        ("val --nms all --workers 0", ["val/*/nms.md", "val/*/metrics.json"]),
        ("tune --nms standard,cl-balanced --workers 0", ["tune/*/tune.json", "tune/*/tuned.yaml"]),
        ("predict {image} --conf 0.02", ["predict/*/1.jpg", "predict/*/predictions.json"]),
        ("explain {image}", ["explain/*/explain.png", "explain/*/explain.json"]),
        ("export --format safetensors", ["export/*/model.safetensors"]),
    ],
)
def test_a_reader_that_is_gone_costs_no_file(project, squares, tmp_path, words, files):
    """As with `| true`: the results are written before stdout is."""
    shutil.copytree(project[0] / "runs" / "train", tmp_path / "runs" / "train")
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "cledet", *words.format(image=squares / "val" / "1.png").split()]
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "CLEDET_DEVICE": "cpu"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environ, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=300, check=False
    )
    os.close(writing)
    assert done.returncode == 141, done.stderr
    assert "Traceback" not in done.stderr
    for pattern in files:
        assert len(list((tmp_path / "runs").glob(pattern))) == 1, pattern


def test_tables_are_plain_in_a_pipe(project):
    process = run("val", "--workers", 0, cwd=project[0])
    assert process.returncode == 0
    assert "\x1b" not in process.stdout + process.stderr
    for word in ("AP50", "ARl", "blue", "red"):
        assert word in process.stdout


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (("train", "--data", "nowhere.yaml"), "nowhere.yaml"),
        (("train", "--data", "shapes", "--backbone", "r51"), "did you mean r50?"),
        (("train", "--recipe", "shpaes"), "did you mean shapes?"),
        (("train", "--recipe", "typo.yaml"), "unknown setting 'epocs' in typo.yaml (did you mean epochs?)"),
        (("train", "--epochs", "ten"), "--epochs ten (from the flag)"),
        (("train", "--resume", "runs/train/nothing"), "last.pt is missing"),
        (("val",), "there is no trained run in runs/train"),
        (("val", "--weights", "nowhere.pt"), "there are no weights at nowhere.pt"),
        (("val", "--weights", "typo.yaml"), "typo.yaml is damaged or no checkpoint"),
        (("val", "--ablation", "iac,cd"), "unknown component 'cd'"),
        (("val", "--nms", "soft,standart"), "unknown NMS method 'standart' (did you mean standard?)"),
        (("val", "--nms", "soft", "--bootstrap", "100"), "name several with --nms, or all"),
        (("predict", "nowhere/"), "nowhere"),
        (("check", "nowhere"), "nowhere"),
        (("check", "."), "holds neither"),
        (("check", "shapes", "--anchor-scale", "inf"), "--anchor-scale inf (from the flag)"),
        (("check", "shapes", "--imgsz", "8"), "--imgsz 8 (from the flag)"),
        (("check", "shapes", "--html", "typo.yaml"), "ends in .html"),
        (("check", "shapes", "--html", "no/page.html"), "the folder no does not exist"),
        (("check", "shapes", "--split", "valid,tset"), "shapes has no split 'tset'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes_end_in_one_sentence(tmp_path, args, part):
    (tmp_path / "typo.yaml").write_text("epocs: 3\n")
    assert part in sentence(run(*args, cwd=tmp_path))
    assert not (tmp_path / "runs").exists()


def test_an_unknown_folder_is_told_what_would_be_readable(tmp_path):
    (tmp_path / "notes.doc").touch()
    process = run("check", ".", cwd=tmp_path)
    assert "(it holds 1 .doc)" in sentence(process)
    lines = process.stderr.splitlines()[1:]
    assert lines[0] == "readable are:"
    assert [line.split(":")[0] for line in lines[1:4]] == ["  COCO", "  Pascal VOC", "  YOLO"]


def test_a_crash_of_one_of_several_is_told_once(monkeypatch, capsys):
    monkeypatch.setattr(cli, "app", raising(ProcessFailed("rank 1 of 2 on h failed:\nTraceback ...")))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert capsys.readouterr() == ("", "error: rank 1 of 2 on h failed:\nTraceback ...\n")


def raising(error):
    def app():
        raise error

    return app


def test_an_environment_variable_is_named_as_the_origin(tmp_path):
    assert "--batch x (from the environment)" in sentence(run("train", cwd=tmp_path, CLEDET_BATCH="x"))


def test_an_unknown_flag_is_code_2(tmp_path):
    process = run("train", "--bakcbone", "r18", cwd=tmp_path)
    assert process.returncode == 2
    assert "--backbone" in process.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_the_run_goes_on(tiny, tmp_path, number, code):
    command = [sys.executable, "-m", "cledet", "train", *flags({**tiny, "iters": 4000, "val_split": "none"})]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith("epoch 1:"):
                break
        process.send_signal(number)
        rest = process.stderr.read()
        assert process.wait(timeout=60) == code, rest
    assert len(re.findall("^epoch ", rest, re.MULTILINE)) < 20, rest  # at once: of hundreds
    assert "go on with: cledet train --resume runs/train/squares" in rest
    assert "Traceback" not in rest
    folder = next((tmp_path / "runs" / "train").iterdir())
    assert (folder / "weights" / "last.pt").is_file()


def test_a_full_pipe_is_no_error():
    """`| head` closes the pipe while the command still writes."""
    code = "import sys, cledet.cli as c; sys.argv[1:] = ['check', 'x']; "
    code += "c.check = None; c.app = lambda: [print('x' * 99) for _ in range(9999)]; c.main()"
    command = f'{sys.executable} -c "{code}" | head -1; exit ${{PIPESTATUS[0]}}'
    process = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert process.stdout == "x" * 99 + "\n"
    assert process.stderr == ""
    assert process.returncode == 141


@pytest.mark.parametrize(
    "args", ["--help", "--version", "train --help", "data list", "data list --json", "recipes --json"]
)
def test_every_command_ends_alike_when_nobody_reads(args):
    """The reader has gone before the first word; some words come with the end only, when stdout is flushed."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "cledet", *args.split()]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = subprocess.run(
        command, env=env, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )
    os.close(writer)
    assert (process.returncode, process.stderr) == (141, "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_anywhere_ends_in_one_sentence(monkeypatch, capsys, number, code):
    """In a command that waits for none; and in one that is called from Python, all is as before."""
    monkeypatch.setattr("cledet.commands.recipes.shipped", lambda: signal.raise_signal(number))
    monkeypatch.setattr(sys, "argv", ["cledet", "recipes"])
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == code
    assert capsys.readouterr() == ("", f"error: stopped by {signal.Signals(number).name}\n")
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_full_or_read_only_disk_anywhere_ends_in_one_sentence(monkeypatch, capsys, number):
    def refuse():
        raise OSError(number, os.strerror(number), "some/file")

    monkeypatch.setattr("cledet.commands.recipes.shipped", refuse)
    monkeypatch.setattr(sys, "argv", ["cledet", "recipes"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: some/file could not be written: {os.strerror(number)}")


def test_another_error_of_the_system_has_a_traceback(monkeypatch):
    def refuse():
        raise OSError(errno.EIO, os.strerror(errno.EIO), "some/file")

    monkeypatch.setattr("cledet.commands.recipes.shipped", refuse)
    monkeypatch.setattr(sys, "argv", ["cledet", "recipes"])
    with pytest.raises(OSError, match="Input/output error"):
        cli.main()


def test_a_signal_before_all_is_imported(tmp_path):
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt")
    process = run("recipes", PYTHONPATH=f"{tmp_path}:{Path(__file__).parents[1]}")
    assert (process.returncode, process.stderr) == (130, "error: stopped by SIGINT\n")


def test_info_names_versions_and_recipes(tmp_path):
    facts = json.loads(run("info", "--json", cwd=tmp_path).stdout)
    assert {"cledet", "torch", "torchvision", "device", "recipes", "runs"} <= facts.keys()
    assert {"shapes", "bccd-lite0"} <= facts["recipes"].keys()
    assert facts["runs"] == []
    assert facts["heads"] == ["retinanet", "gfl", "fcos"]
    assert facts["backbones"]["x101-32x4d"][-1] == "-caffe-dcnv2-c4c5"


def test_info_in_words_names_each_backbone_and_each_ending_once(tmp_path):
    lines = " ".join(run("info", cwd=tmp_path).stdout.replace("│", " ").split())
    for words in ("r18, r34 (also -dcn -dcn-c4c5 -dcnv2 -dcnv2-c4c5)", "x50, x101, x101-32x4d",
                  "lite0, lite2, timm:NAME", "retinanet, gfl, fcos"):  # fmt: skip
        assert lines.count(words) == 1, words
    assert lines.count("-caffe-dcnv2-c4c5") == 1


def test_check_of_a_good_data_set(squares):
    process = run("check", squares, "--json")
    report = json.loads(process.stdout)
    assert (process.returncode, report["ok"]) == (0, True)
    assert [split["images"] for split in report["splits"]] == [6, 4]
    strict = run("check", squares, "--split", "val", "--strict", "--imgsz", 320, "--anchor-scale", 3, "--workers", 1)
    assert strict.returncode == 1, strict.stderr
    assert "an anchor covers at --imgsz 320 --anchor-scale 3" in strict.stdout
    assert "warning val: 2 of 2 classes have fewer than 10 boxes" in strict.stdout
    assert "train" not in strict.stdout
    assert strict.stderr == f"{squares.name}: COCO, train, val\n"


def test_check_of_a_bad_data_set_and_its_page(sick, tmp_path):
    process = run("check", sick, "--html", "page.html", cwd=tmp_path)
    assert process.returncode == 2
    lines = process.stdout.splitlines()
    findings = [line.split()[0] for line in lines if line.startswith(("error", "warning", "note"))]
    assert findings == ["error"] * 4 + ["warning"] * 11 + ["note"]
    assert f"          {sick}/train/other.png: 40x30, annotated as 44x30" in lines
    assert process.stderr == f"{sick.name}: COCO, train, val\npage: page.html\n"
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_names_that_stdout_cannot_show(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((30, 40, 3), dtype=np.uint8))
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}], "annotations": [],
        "categories": [{"id": 1, "name": "half ✓ ü"}],
    }  # fmt: skip
    (tmp_path / "train.json").write_text(json.dumps(content))
    assert "half ✓ ü" in run("check", tmp_path, PYTHONIOENCODING="utf-8").stdout
    assert "half \\u2713" in run("check", tmp_path, PYTHONIOENCODING="ascii").stdout


def test_check_in_a_full_pipe(sick):
    command = f"{sys.executable} -m cledet check {sick} | head -1; exit ${{PIPESTATUS[0]}}"
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert process.stdout == "sick\n"
    assert process.stderr == f"{sick.name}: COCO, train, val\n"
    assert process.returncode in (2, 141)  # all was written before `head` left, or not


def test_check_shows_progress_and_leaves_at_once(tmp_path):
    pty = pytest.importorskip("pty")
    (tmp_path / "train").mkdir()
    cv2.imwrite(str(tmp_path / "large.png"), np.zeros((3000, 3000, 3), dtype=np.uint8))
    for i in range(3000):
        (tmp_path / "train" / f"{i}.png").symlink_to(tmp_path / "large.png")
    images = [{"id": i, "file_name": f"{i}.png", "width": 3000, "height": 3000} for i in range(3000)]
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "train.json").write_text(json.dumps(content))
    main, terminal = pty.openpty()
    command = [sys.executable, "-m", "cledet", "check", str(tmp_path)]
    heed = partial(
        signal.signal, signal.SIGINT, signal.SIG_DFL
    )  # tests in the background would hand on that it is ignored
    pipes = {"stdout": subprocess.PIPE, "stderr": terminal, "text": True}
    with subprocess.Popen(command, env={**os.environ, "COLUMNS": "200"}, preexec_fn=heed, **pipes) as process:
        os.close(terminal)
        shown = b""
        while not re.search(rb"[1-9]\d*/3000", shown):
            shown += os.read(main, 4096)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # what Linux says at the end of a terminal
            while rest := os.read(main, 4096):
                shown += rest
        assert process.stdout.read() == ""
        assert process.wait(timeout=60) == 130
    os.close(main)
    assert max(map(int, re.findall(rb"(\d+)/3000", shown))) < 1000
    assert b"Traceback" not in shown


def test_check_finds_bccds_two_degenerate_boxes(shared_data):
    process = run("check", shared_data / "bccd")
    assert process.returncode == 0, process.stderr
    assert "BloodImage_00338" in process.stdout
    assert "BloodImage_00343" in process.stdout


def test_version_and_help():
    assert run("--version").stdout == f"{__version__}\n"
    text = run("train", "--help", COLUMNS="200").stdout
    for flag in ("--data", "--split", "--weights", "--backbone", "--head", "--ablation", "--recipe", "--epochs",
                 "--iters", "--batch", "--imgsz", "--lr", "--seed", "--workers", "--device", "--amp", "--resume",
                 "--save-steps", "--backbone-weights", "--project", "--name", "--nms", "--conf", "--iou", "--max-det",
                 "--json"):  # fmt: skip
        assert f"{flag} " in text, flag
    assert "auto: as many as fit into memory. Default: 8." in text
    assert "Default: iac,dc,clb." in " ".join(text.split())
