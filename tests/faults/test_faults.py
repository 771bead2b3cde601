"""A few tries of each quick fault; `python tests/faults/run.py` has them all, see docs/robustness.md."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from whole_files import assert_whole, digest, temporary_files

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="processes are forked, and disks mounted, as on Linux"),
]
CONTENTS = {
    "a.json": b'{"a": [1]}', "a.jsonl": b'{"a": 1}\n{"a": 2}\n', "a.yaml": b"a: 1\n", "a.csv": b"a,b\n1,2\n",
    "a.html": b"<html></html>", "status": b"finished\n",
}  # fmt: skip
"""Whole files, of which no part is whole."""
HERE = Path(__file__).parent
TRIES = {
    "kill-train": 5, "kill-val": 1, "kill-predict": 1, "kill-export": 1, "kill-check": 1, "kill-loader": 1,
    "full-disk": 2, "read-only": 1, "lose-image": 1, "two-at-once": 2, "closed-pipe": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """How the tries ended, by fault."""
    file = tmp_path_factory.mktemp("faults") / "outcomes.json"
    tried = [f"--fault={name}:{count}" for name, count in TRIES.items()]
    process = subprocess.run(
        [sys.executable, str(HERE / "run.py"), *tried, "--json", str(file)],
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert process.returncode in (0, 1), process.stderr
    return {outcome["fault"]: outcome for outcome in json.loads(file.read_text())}


@pytest.mark.parametrize("fault", TRIES)
def test_a_fault_is_survived(outcomes: dict[str, dict[str, object]], fault: str) -> None:
    outcome = outcomes[fault]
    if not outcome["tries"]:
        pytest.skip("nothing can be mounted here")
    assert not outcome["failures"], "\n".join(outcome["failures"])  # type: ignore[arg-type]
    assert outcome["survived"] == TRIES[fault]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """A file of each kind."""
    for name, content in CONTENTS.items():
        (tmp_path / name).write_bytes(content)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 9, 3), np.uint8)).save(tmp_path / "a.png")
    torch.save({"a": torch.ones(9)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("a", "text")
    return list(tmp_path.iterdir())


def test_half_a_file_is_noticed_unless_it_is_temporary(files: list[Path], tmp_path: Path) -> None:
    assert_whole(tmp_path)
    for file in files:
        whole = file.read_bytes()
        file.write_bytes(whole[:-3] if len(whole) < 40 else whole[: len(whole) // 2])
        with pytest.raises(AssertionError, match=f"{file.name} is not whole"):
            assert_whole(tmp_path)
        part = file.rename(file.with_name(f"{file.name}.part"))
        assert_whole(tmp_path)
        assert temporary_files(tmp_path) == [part]
        part.unlink()
        file.write_bytes(whole)


def test_a_digest_differs_by_one_bit_and_by_no_time() -> None:
    values = torch.tensor([1.0, 2.0])
    content = {"step": 3, "model": {"a": values}, "metrics": {"AP": 0.5}, "written": "now", "meter": {"start": 1.0}}
    same = {**content, "written": "then", "meter": {"start": 2.0}}
    assert digest(content) == digest(same)
    changed = torch.nextafter(values, torch.tensor([1.0, 9.0]))
    for other in ({"step": 4}, {"model": {"a": changed}}, {"model": {"b": values}}, {"metrics": {"AP": 0.5 + 2**-53}}):
        assert digest(content) != digest({**content, **other})
