"""YAML of anybody's: plain values within bounds, or a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cledet.config.loading import read_recipe
from cledet.data.open import open_source
from cledet.errors import UserError
from cledet.io.run_folders import components_of
from cledet.safe_yaml import MAX_BYTES, read_yaml

LAUGHS = "a: &a [ha, ha]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{below}'] * 10)}]\n" for below, name in zip("abcdefgh", "bcdefghi")
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{below}'] * 10)}]}}\n" for below, name in zip("abcdefgh", "bcdefghi")
)
HOSTILE = {
    "laughs": (LAUGHS, "its aliases expand to too much"),
    "merges": (MERGES, "its aliases expand to too much"),
    "long-alias": (f"a: &a {'x' * 2000}\nnames: [{', '.join(['*a'] * 1000)}]", "its aliases expand to too much"),
    "chain": ("a0: &a0 [1]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}]\n" for i in range(60)), "more than 50 levels"),
    "itself": ("a: &a [*a]", "nested more than 50 levels"),
    "flow": ("[" * 60 + "]" * 60, "nested more than 50 levels"),
    "deep": ("[" * 20_000, "is not valid YAML"),
    "block": ("- " * 5000, "is not valid YAML"),
    "long": ("a: " + "x" * MAX_BYTES, "more than 1,000,000 bytes"),
    "digits": (f"lr: {'1' * 5000}", "a number has more than 100 digits"),
    "hex": (f"lr: 0x{'f' * 5000}", "a number has more than 100 digits"),
    "sexagesimal": ("lr: 1" + ":59" * 1000, "a number has more than 100 digits"),
    "binary": ("lr: 0b_", "is not valid YAML"),
    "int": ("lr: !!int ''", "the tag tag:yaml.org,2002:int does not fit ''"),
    "bool": ("lr: !!bool x", "does not fit 'x'"),
    "object": ("lr: !!python/object/apply:os.system [ls]", "is not valid YAML"),
    "unhashable": ("{[1]: 2}", "is not valid YAML: .*unhashable key"),
    "nul": (r'a: "\0"', "holds a NUL character"),
    "surrogate": (r'a: "\ud800"', "is not valid YAML"),
    "latin": (b"a: \xff", "is not valid YAML: 'utf-8' codec"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_yaml_is_refused_by_every_reader(name, tmp_path):
    text, words = HOSTILE[name]
    (tmp_path / "config.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    for read in (read_yaml, read_recipe, open_source):
        with pytest.raises(UserError, match=f"config.yaml .*({words})"):
            read(tmp_path / "config.yaml")
    assert components_of(tmp_path) is None


@pytest.mark.parametrize("name", ["laughs", "merges", "flow", "deep", "block", "surrogate", "nul"])
def test_hostile_yaml_is_refused_without_libyaml_too(name, tmp_path, monkeypatch):
    monkeypatch.setattr("cledet.safe_yaml.LOADER", yaml.SafeLoader)
    (tmp_path / "a.yaml").write_text(str(HOSTILE[name][0]))
    with pytest.raises(UserError, match=r"a\.yaml is not valid YAML: "):
        read_yaml(tmp_path / "a.yaml")


def test_plain_values_are_read_and_dates_remain_strings(tmp_path):
    file = tmp_path / "a.yaml"
    text = "a: 1\nb: [0.5, .inf, yes, ~]\nc: 2026-11-28\nd: 2001-99-99\ne: &e {x: é, z: !!timestamp x}\n"
    file.write_text(f"\ufeff{text}f: {{<<: *e, y: !!int 3}}\n", encoding="utf-8")
    assert read_yaml(file) == {
        "a": 1, "b": [0.5, float("inf"), True, None], "c": "2026-11-28", "d": "2001-99-99",
        "e": {"x": "é", "z": "x"}, "f": {"x": "é", "z": "x", "y": 3},
    }  # fmt: skip
    file.write_text("")
    assert read_yaml(file) is None


def test_a_list_of_all_imagenet_classes_is_within_the_limits(tmp_path):
    names = [f"a class of ImageNet-21k {i}" for i in range(22_000)]
    (tmp_path / "a.yaml").write_text("".join(f"- {name}\n" for name in names))
    assert read_yaml(tmp_path / "a.yaml") == names


def test_missing_and_unreadable_files(tmp_path, monkeypatch):
    for path in (tmp_path, tmp_path / "none.yaml", tmp_path / ("x" * 300), Path("a\0b")):
        with pytest.raises(UserError, match="there is no file"):
            read_yaml(path)
    (tmp_path / "a.yaml").write_text("a: 1")

    def refuse(self, mode):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"a\.yaml cannot be read: Permission denied"):
        read_yaml(tmp_path / "a.yaml")
