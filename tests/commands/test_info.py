"""`cledet info` lists the runs with date, data, AP and status, whatever is in their folders."""

from __future__ import annotations

import json

from cledet.commands.info import info
from cledet.config.train import TrainSettings


def run_folder(root, name, files):
    folder = root / "runs" / "train" / name
    (folder / "weights").mkdir(parents=True)
    (folder / "weights" / "best.pt").write_bytes(b"")
    for file, content in files.items():
        (folder / file).write_bytes(content)


def test_runs_are_listed_with_data_ap_and_status(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = TrainSettings(data="photos")
    settings._origins.update(dict.fromkeys(TrainSettings.model_fields, "default"))
    rows = b"epoch,step,AP\n1,10,0.25\n2,20,0.75\n3,30,\n4,40,0.5\n"
    run_folder(
        tmp_path, "a", {"config.yaml": settings.to_yaml().encode(), "results.csv": rows, "status": b"finished\n"}
    )
    run_folder(tmp_path, "broken", {"config.yaml": b"[", "results.csv": b"AP\nx\n\xff", "status": b"\xff"})
    run_folder(tmp_path, "bare", {})
    info(json=True)
    runs = {run.pop("run"): run for run in json.loads(capsys.readouterr().out)["runs"]}
    assert runs["runs/train/a"].items() >= {"data": "photos", "AP": 0.75, "status": "finished"}.items()
    assert len(runs["runs/train/a"]["date"]) == len("2026-11-29 03:00")
    assert (runs["runs/train/broken"]["data"], runs["runs/train/broken"]["AP"]) == (None, None)
    assert runs["runs/train/bare"].items() >= {"data": None, "AP": None, "status": None}.items()
    info()
    text = capsys.readouterr().out
    assert "photos" in text
    assert "finished" in text
