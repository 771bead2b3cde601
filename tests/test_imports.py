"""The design's rule of who may import whom, read from the sources."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "cledet"
FILES = sorted(PACKAGE.rglob("*.py"))

SETTINGS = {"errors", "safe_yaml", "choices", "config", "eval_config", "train_config", "recipe_config", "resolve"}
PARTS = {"components", "ops", "models", "data"}
ALLOWED = {
    "errors": set(),
    "safe_yaml": {"errors"},
    "choices": {"errors"},
    "group": {"errors"},
    "config": {"errors", "choices"},
    "eval_config": {"choices", "config"},
    "train_config": {"choices", "config"},
    "recipe_config": {"choices", "config"},
    "resolve": {"errors", "safe_yaml", "config", "train_config", "recipe_config"},
    "console": {"errors", "group"},
    "components": {"components", "ops"},
    "ops": {"components", "ops"},
    "models": {"errors", "config", "components", "ops", "models"},
    "data": {"errors", "safe_yaml", "config", "data"},
    "evaluation": {"errors", "data", "evaluation"},
    "engine": {*SETTINGS, *PARTS, "evaluation", "group", "console", "engine", "__init__"},
    "detector": {*SETTINGS, *PARTS, "group", "console", "evaluation", "engine"},
    "commands": {*SETTINGS, "console", "data", "evaluation", "engine", "detector"},
    "reproduce": {*SETTINGS, "group", "console", "data", "evaluation", "engine", "detector", "commands"},
    "cli": {
        *SETTINGS,
        "console",
        "data",
        "evaluation",
        "engine",
        "detector",
        "commands",
        "reproduce",
        "cli",
        "__init__",
    },
    "__main__": {"cli"},
    "__init__": {"errors", "detector"},
}
ROOMS = {
    "engine": set(),
    "launching": {"engine"},
    "launch": {"launching"},
    "pictures": {"engine"},
    "judging": {"engine"},
    "reporting": {"engine", "pictures"},
    "comparing": {"engine", "pictures"},
    "doctor": {"engine", "pictures"},
    "tuning": {"engine", "judging"},
    "exporting": {"engine", "judging"},
    "predicting": {"engine", "pictures", "judging"},
    "training": {"engine", "launch", "pictures", "judging", "predicting"},
    "explaining": {"engine", "pictures", "judging", "training"},
    "reproducing": {"training"},
}
"""Of each room of the engine those before it that it may import. `engine`: the files in no room, launch.py excepted."""
DISTRIBUTED = {f"engine/{name}.py" for name in ("distributed", "launch", "launching/rendezvous", "launching/starts")}
ONLY_IN = {"typer": {"cli"}, "rich": {"console"}}
OPS_FOR_COMPONENTS = {"cledet.ops.boxes", "cledet.ops.assigners.max_iou"}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            found |= {f"{module}.{alias.name}" for alias in node.names} if module == "cledet.engine" else {module}
    return found


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def room(name: str) -> str:
    """Which of the engine's rooms a folder or a file in it is."""
    return name if name in ROOMS else "engine"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    for module in imports(path):
        root, *rest = module.split(".")
        if root == "cledet":
            assert (rest[0] if rest else "__init__") in ALLOWED[layer(path)], f"{path.name} imports {module}"
        if root in ONLY_IN:
            assert layer(path) in ONLY_IN[root], f"{path.name} imports {module}"
        if module.startswith("torch.distributed"):
            assert path.relative_to(PACKAGE).as_posix() in DISTRIBUTED, f"{path.name} imports {module}"


@pytest.mark.parametrize(
    "path", [path for path in FILES if layer(path) == "engine"], ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_rooms_of_the_engine_are_entered_one_way(path):
    own = room(path.relative_to(PACKAGE / "engine").parts[0].removesuffix(".py"))
    entered = {room(module.split(".")[2]) for module in imports(path) if module.startswith("cledet.engine.")}
    assert entered <= {own, *ROOMS[own]}, f"{path.name} of {own} imports {entered}"


def test_every_room_of_the_engine_is_known_and_stands_on_those_before_it():
    folders = {path.parent.name for path in (PACKAGE / "engine").glob("*/*.py")}
    assert folders | {"engine", "launch"} == set(ROOMS)
    names = list(ROOMS)
    assert all(below in names[:i] for i, above in enumerate(names) for below in ROOMS[above])


def test_components_take_only_box_arithmetic_and_matching_from_ops():
    for path in (PACKAGE / "components").glob("*.py"):
        assert {m for m in imports(path) if m.startswith("cledet.ops")} <= OPS_FOR_COMPONENTS


def test_the_rule_sees_imports():
    """Were the reading of imports broken, the tests above would pass on anything."""
    assert "cledet.models.network" in imports(PACKAGE / "models" / "decode.py")
    assert "typer" in imports(PACKAGE / "cli" / "app.py")
    assert "cledet.distributed.launch" in imports(PACKAGE / "engine" / "training" / "session.py")
    assert "cledet.distributed.collectives" in imports(PACKAGE / "engine" / "judging" / "validator.py")
