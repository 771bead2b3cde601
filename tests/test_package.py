"""The wheel and the sdist: what they hold, and the commands of an installed wheel, away from the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from cledet import __version__

ROOT = Path(__file__).resolve().parents[1]
DATA = (".py", ".yaml", ".html", ".css", ".typed")

pytestmark = pytest.mark.slow


def run(*command: object, cwd: Path) -> str:
    """Run a command without the variables that would lead Python back to the checkout; returns stdout."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    env |= {"OMP_NUM_THREADS": "1", "CLEDET_CACHE": str(cwd / "cache")}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def content(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist()}


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """The sdist, and the wheel that is built from it."""
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return folder / f"cledet-{__version__}.tar.gz", folder / f"cledet-{__version__}-py3-none-any.whl"


@pytest.fixture(scope="module")
def installed(packages, tmp_path_factory):
    """The commands of an environment that holds the wheel and sees the packages of this one."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", packages[1], cwd=folder)
    seen = [path for path in sys.path if path.endswith("-packages")]
    (site / "others.pth").write_text("\n".join(dict.fromkeys([*seen, sysconfig.get_path("purelib")])))
    assert run(python, "-c", "import cledet; print(cledet.__file__)", cwd=folder).startswith(str(site))
    return folder / "bin"


def test_the_wheel_holds_the_package_and_the_recipes(packages):
    sources = {f"cledet/{path.relative_to(ROOT / 'cledet')}" for path in (ROOT / "cledet").rglob("*")}
    wanted = {name for name in sources if name.endswith(DATA)}
    wanted |= {f"cledet/{path.relative_to(ROOT)}" for path in (ROOT / "recipes").glob("*.yaml")}
    found = {name for name in content(packages[1]) if not name.startswith(f"cledet-{__version__}.dist-info/")}
    assert found == wanted
    assert {"cledet/py.typed", "cledet/recipes/shapes.yaml", "cledet/data/sets/coco.yaml"} < found
    assert {"cledet/visualization/page.css", "cledet/visualization/templates/report.html"} < found


def test_a_checkout_and_its_sdist_build_the_same_wheel(packages, tmp_path):
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path, ROOT, cwd=tmp_path)
    assert content(tmp_path / packages[1].name) == content(packages[1])


def test_the_sdist_holds_what_its_tests_need(packages):
    with tarfile.open(packages[0]) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    left_out = {name for name in tracked if name not in names and not name.startswith((".ci/", ".github/"))}
    assert left_out <= {".pre-commit-config.yaml", ".dockerignore"}


def test_the_installed_commands_work(installed, squares, tiny, tmp_path):
    assert run(installed / "cledet", "--version", cwd=tmp_path) == f"{__version__}\n"
    sets = json.loads(run(installed / "cledet", "data", "list", "--json", cwd=tmp_path))
    assert {"coco", "voc", "shapes"} == {one["name"] for one in sets}
    run(installed / "cledet", "check", squares, "--html", "check.html", cwd=tmp_path)
    assert "<style>" in (tmp_path / "check.html").read_text()
    flags = [word for key, value in tiny.items() for word in (f"--{key.replace('_', '-')}", value)]
    run(installed / "cledet", "train", *flags, cwd=tmp_path)
    run(installed / "cledet", "predict", squares / "val" / "1.png", "--conf", 0.02, cwd=tmp_path)
    assert (tmp_path / "runs" / "predict" / "1" / "1.jpg").is_file()
