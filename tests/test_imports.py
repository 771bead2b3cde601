"""The design's rule of who may import whom, read from the sources, deferred imports included."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "cledet"
FILES = sorted(PACKAGE.rglob("*.py"))

ORDER = {
    "__init__": set(),
    "errors": set(),
    "safe_yaml": {"errors"},
    "config": {"errors", "safe_yaml"},
    "environment": {"errors"},
    "console": {"errors", "environment"},
    "signals": {"console"},
    "io": {"__init__", "errors", "safe_yaml", "config", "console"},
    "distributed": {"errors", "environment", "console", "signals", "io"},
    "ops": set(),
    "components": {"ops"},
    "models": {"errors", "config", "console", "io", "ops", "components"},
    "data": {"errors", "safe_yaml", "io"},
    "metrics": {"errors", "data"},
    "visualization": {"console", "io", "data"},
    "data_check": {
        *("errors", "config", "console", "io", "distributed", "models", "data", "metrics", "visualization"),
    },
    "evaluation": {
        *("errors", "safe_yaml", "config", "console", "signals", "io", "distributed", "ops", "components", "models"),
        *("data", "metrics", "visualization"),
    },
    "inference": {
        *("errors", "config", "console", "io", "distributed", "ops", "models", "data", "metrics", "visualization"),
        "evaluation",
    },
    "training": {
        *("errors", "config", "environment", "console", "signals", "io", "distributed", "components", "models", "data"),
        *("metrics", "visualization", "data_check", "evaluation", "inference"),
    },
    "explain": {
        *("errors", "config", "console", "distributed", "ops", "components", "models", "data", "visualization"),
        *("evaluation", "training"),
    },
    "export": {
        *("errors", "config", "console", "io", "distributed", "ops", "models", "data", "metrics", "evaluation"),
        "inference",
    },
    "detector": {
        *("errors", "config", "console", "io", "distributed", "models", "data", "metrics", "evaluation", "inference"),
        *("training", "explain", "export"),
    },
    "commands": {
        *("errors", "config", "environment", "console", "io", "distributed", "models", "data", "metrics"),
        *("visualization", "data_check", "evaluation", "inference", "training", "explain", "export", "detector"),
        "__init__",
    },
    "cli": {"__init__", "errors", "console", "commands", "io"},
    "__main__": {"cli"},
}
"""Of each room those that it may import, all of them before it. A room is a folder, or a file in none;
`distributed/environment.py`, which `console` needs, is a room of its own."""
FACADES = {"cledet/__init__.py", "cledet/ops/__init__.py"}
"""Public names that are imported on first use, from anywhere in the package: these files hold nothing else."""
ONLY_IN = {"typer": {"cli", "commands"}, "rich": {"console"}}
WITHOUT_TORCH = {
    *("errors", "safe_yaml", "config", "environment", "console", "signals", "metrics", "commands", "cli", "__main__"),
}
"""Rooms whose files import no torch when they are imported, but for `commands/fill_table.py`."""
PROCESSES = {f"distributed/{name}.py" for name in ("collectives", "launch")}


def imports(path: Path, *, deferred: bool = True) -> set[str]:
    """The modules that a file imports; without deferred ones, those that importing the file imports."""
    found: set[str] = set()
    nodes = [ast.parse(path.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if is_module(name) else str(node.module) for name in names}
        elif not deferred and (isinstance(node, ast.FunctionDef) or is_type_checking(node)):
            continue
        nodes += ast.iter_child_nodes(node)
    return found


def is_module(name: str) -> bool:
    place = PACKAGE.parent.joinpath(*name.split("."))
    return place.with_suffix(".py").is_file() or place.is_dir()


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def room(module: str) -> str:
    parts = module.split(".")[1:]
    return "environment" if parts == ["distributed", "environment"] else parts[0] if parts else "__init__"


def own(path: Path) -> bool:
    return f"{path.relative_to(PACKAGE.parent).as_posix()}" not in FACADES


IMPORTED = {module_of(path): imports(path) for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    here = room(module_of(path))
    for module in imports(path):
        root = module.split(".")[0]
        if root == "cledet" and own(path):
            assert room(module) in {here, *ORDER[here]}, f"{path} imports {module}"
        if root in ONLY_IN:
            assert here in ONLY_IN[root], f"{path} imports {module}"
        if module.startswith("torch.distributed"):
            assert path.relative_to(PACKAGE).as_posix() in PROCESSES, f"{path} imports {module}"


def test_every_room_is_known_and_stands_on_those_before_it():
    assert {room(module_of(path)) for path in FILES} == set(ORDER)
    names = list(ORDER)
    assert all(below in names[:i] for i, above in enumerate(names) for below in ORDER[above])


def test_no_file_imports_itself_through_others():
    """Deferred imports count; public names that are handed on do not."""
    graph = {
        module_of(path): {name for name in imports(path) if name in IMPORTED and own(PACKAGE.parent / file_of(name))}
        for path in FILES
        if own(path)
    }
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, f"a circle: {' -> '.join((*above[above.index(module) :], module))}"
        if module not in done:
            for below in sorted(graph[module]):
                visit(below, (*above, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def file_of(module: str) -> Path:
    place = Path(*module.split("."))
    return place.with_suffix(".py") if (PACKAGE.parent / place).with_suffix(".py").is_file() else place / "__init__.py"


LIGHT = [path for path in FILES if room(module_of(path)) in WITHOUT_TORCH and path.stem != "fill_table"]


@pytest.mark.parametrize("path", LIGHT, ids=str)
def test_the_command_line_and_metrics_import_no_torch(path):
    seen, left = set(), {module_of(path)}
    while left:
        module = left.pop()
        seen.add(module)
        file = PACKAGE.parent / file_of(module)
        found = imports(file, deferred=False)
        assert not {name for name in found if name.split(".")[0] in ("torch", "torchvision")}, f"by way of {module}"
        left |= {name for name in found if name in IMPORTED} - seen


def test_facades_hold_no_code_but_that_of_handing_on():
    for name in FACADES:
        functions = [n for n in ast.parse((PACKAGE.parent / name).read_text()).body if isinstance(n, ast.FunctionDef)]
        assert [function.name for function in functions] in (["__getattr__"], ["__getattr__", "__dir__"])
        assert not {m for m in imports(PACKAGE.parent / name, deferred=False) if m.startswith("cledet")}


def test_no_class_variable_lacks_its_type():
    """Python 3.10 cannot evaluate a bare ClassVar in a string, which pydantic asks of dataclasses."""
    annotations = [node.annotation for path in FILES for node in ast.walk(ast.parse(path.read_text()))
                   if isinstance(node, ast.AnnAssign)]  # fmt: skip
    assert any(isinstance(annotation, ast.Subscript) for annotation in annotations)
    assert not [annotation.lineno for annotation in annotations if ast.unparse(annotation) == "ClassVar"]


def test_opencv_is_used_without_windows():
    """So opencv-python-headless, opencv-python or both may be installed."""
    trees = [ast.parse(path.read_text()) for path in FILES]
    used = {
        node.attr
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "cv2"
    }
    assert "resize" in used
    assert not used & {"imshow", "waitKey", "namedWindow", "destroyWindow", "destroyAllWindows", "selectROI"}


def test_the_rule_sees_imports():
    """Were the reading of imports broken, the tests above would pass on anything."""
    assert "cledet.models.network" in IMPORTED["cledet.models.postprocess"]
    assert "typer" in IMPORTED["cledet.commands.options"]
    assert "cledet.distributed.launch" in IMPORTED["cledet.training.run"]
    assert "cledet.distributed.collectives" in IMPORTED["cledet.evaluation.evaluator"]
    assert "torch" in imports(PACKAGE / "commands" / "info.py")
    assert "torch" not in imports(PACKAGE / "commands" / "info.py", deferred=False)
