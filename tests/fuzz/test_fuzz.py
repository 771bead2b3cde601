"""Broken files of every kind: cledet takes or refuses each; see docs/robustness.md."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
TARGETS = (
    "coco", "voc", "yolo", "csv", "labelme", "cvat", "label-studio", "zip", "datafile", "layout", "results",
    "predictions", "recipe", "image", "source", "archive", "checkpoint", "safetensors", "foreign", "weights", "check",
    "check-voc", "check-yaml", "val", "predict",
)  # fmt: skip
MISDEEDS = {
    "path.joinpath('a').write_text('x')": "changed 'case/a': success",
    "open(path / '../outside/x', 'w')": "open in",
    "os.remove(path / '../outside/x')": "os.remove in",
    "os.system('true')": "os.system (b'true',) in",
    "subprocess.run(['true'])": "subprocess.Popen ('true', ['true']) in",
    "socket.create_connection(('127.0.0.1', 9))": "socket.getaddrinfo ('127.0.0.1', 9) in",
    "time.sleep(9)": "too slow in",
    "os.mkfifo(path / 'out/p'), open(path / 'out/p')": "too slow in",
    "threading.Thread(target=time.sleep, args=(99,)).start()": "",
    "bytearray(b'1') * 500_000_000": "too much memory: success",
    "[][0]": "IndexError in",
    "ctypes.string_at(0)": "died of SIGSEGV",
    "os._exit(3)": "ended with 3",
}
"""What a target of the fuzzer may do, and the beginning of what the judge says of it; nothing if it may."""
PROGRAM = """
import ctypes, os, random, socket, subprocess, sys, threading, time
import judge, run, targets
misdeeds = sys.argv[1:]
for number, words in enumerate(misdeeds):
    use = eval(f"lambda path, rng: ({words})")
    targets.TARGETS[str(number)] = targets.Target(lambda rng: {"a.png": b""}, use, 1)
run.SECONDS = judge.SECONDS = 3
run.MEMORY = judge.MEMORY = 800 << 20
for verdict in run.run([(str(number), [0]) for number in range(len(misdeeds))], 1):
    print(verdict.site)
"""


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    """How every case ended."""
    file = tmp_path_factory.mktemp("fuzz") / "verdicts.json"
    command = [sys.executable, str(HERE / "run.py"), "--cases", "2000", "--json", str(file)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert process.returncode in (0, 1), process.stderr
    return json.loads(file.read_text())


@pytest.mark.parametrize("target", TARGETS)
def test_files_are_taken_or_refused(verdicts: list[dict[str, object]], target: str) -> None:
    own = [verdict for verdict in verdicts if verdict["target"] == target]
    again = f"python tests/fuzz/run.py --target {target} --case"
    failed = {verdict["site"]: f"{again} {verdict['number']}" for verdict in own if verdict["outcome"] == "failed"}
    assert not failed, "\n".join(f"{site}: {command}" for site, command in failed.items())
    assert (own[0]["number"], own[0]["outcome"]) == (0, "success"), own[0]["detail"]
    assert len(own) < 20 or {verdict["outcome"] for verdict in own} == {"success", "refused"}  # else it tests nothing


def test_all_targets_are_run(verdicts: list[dict[str, object]]) -> None:
    assert {verdict["target"] for verdict in verdicts} == set(TARGETS)
    assert abs(len(verdicts) - 2000) < 20


def test_a_misdeed_is_noticed() -> None:
    process = subprocess.run([sys.executable, "-c", PROGRAM, *MISDEEDS], cwd=HERE, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    sites = dict(zip(MISDEEDS, process.stdout.splitlines(), strict=True))
    assert {words: site[: len(MISDEEDS[words])] or site for words, site in sites.items()} == MISDEEDS
