"""Weights on a Hub on loopback: fetched once, from a revision, offline; pickles and mistakes are one sentence."""

from __future__ import annotations

import builtins

import pytest
import torch

from cledet import Detector
from cledet.errors import UserError
from cledet.models.checkpoint import load_checkpoint
from cledet.models.hub import fetch_from_hub
from cledet.models.safetensors import pack
from cledet.models.weights import load_weights


@pytest.fixture
def content(small):
    """A safetensors file of a few kilobytes."""
    return pack(small(3).content())


def test_a_repository_is_fetched_once_and_announced(hub, content, capsys):
    hub.repos["me/cats", "main"] = {"model.safetensors": content, "README.md": b"# cats"}
    model = load_weights("hf:me/cats")
    assert (model.step, model.classes) == (3, ("x", "y"))
    said = capsys.readouterr().err
    assert f"fetching hf:me/cats from {hub.url}/me/cats (0 MB, licence: apache-2.0)" in said
    hub.asked.clear()
    assert load_weights("hf:me/cats").step == 3
    assert capsys.readouterr().err == ""
    assert not [line for line in hub.asked if line.startswith("GET") and "resolve" in line]


def test_a_revision_is_a_version_of_the_repository(hub, content, small):
    hub.repos["me/cats", "main"] = {"model.safetensors": content}
    hub.repos["me/cats", "v2"] = {"weights.safetensors": pack(small(9).content()), "old.bin": b""}
    assert load_weights("hf:me/cats@v2").step == 9
    with pytest.raises(UserError, match=r"me/cats has no such revision \(name a branch, a tag or a commit"):
        load_weights("hf:me/cats@v3")


def test_offline_the_cached_file_is_taken(hub, content, monkeypatch, capsys):
    hub.repos["me/cats", "main"] = {"model.safetensors": content}
    first = fetch_from_hub("hf:me/cats")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert fetch_from_hub("hf:me/cats") == first
    assert "http://127.0.0.1:1/me/cats could not be used: " in capsys.readouterr().err
    with pytest.raises(UserError, match=r"127\.0\.0\.1:1/me/dogs could not be used: .*\(or pass a local file with --w"):
        fetch_from_hub("hf:me/dogs")


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (["pytorch_model.bin", "README.md"], r"hf:me/cats holds a pickle \(pytorch_model.bin\), which can run code"),
        (["best.pt"], r"holds a pickle \(best.pt\), .*and no safetensors file \(ask its owner for safetensors"),
        (["README.md"], r"hf:me/cats holds no weights \(a repository of a detector holds model.safetensors\)"),
        (["a.safetensors", "b.safetensors"], "holds 2 safetensors files and no model.safetensors"),
    ],
)
def test_a_repository_without_one_safetensors_file_is_refused(hub, files, sentence):
    hub.repos["me/cats", "main"] = dict.fromkeys(files, b"\x80\x04.")
    with pytest.raises(UserError, match=sentence):
        load_weights("hf:me/cats")
    assert not [line for line in hub.asked if "resolve" in line]


def test_what_is_no_repository_is_one_sentence(hub, monkeypatch):
    with pytest.raises(UserError, match=r"me/cats does not exist or is private \(check OWNER/REPO, or log in with"):
        load_weights("hf:me/cats")
    for name in ("hf:cats", "hf:", "hf:a/b/c", "hf:../x", "hf:@main"):
        with pytest.raises(UserError, match=r"is no repository on the Hub \(write OWNER/REPO, and @REVISION after it"):
            load_weights(name)
    imported = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "huggingface_hub":
            raise ImportError
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"huggingface_hub is not installed \(pip install 'cledet\[hub\]'\)"):
        load_weights("hf:me/cats")


@pytest.mark.slow
def test_a_detector_comes_back_as_it_was_pushed(hub, tiny_run):
    assert Detector(tiny_run).push_to_hub("me/squares", license="mit") == f"{hub.url}/me/squares"
    files = hub.repos["me/squares", "main"]
    assert sorted(files) == ["README.md", "model.safetensors"]
    card = files["README.md"].decode()
    assert "license: mit\n" in card
    assert "cledet predict images/ --weights hf:me/squares" in card
    back, model = Detector("hf:me/squares").model, load_checkpoint(tiny_run)
    assert all(torch.equal(back.model[name], value) for name, value in model.model.items())
    assert (back.classes, back.best_conf, back.class_confs) == (model.classes, model.best_conf, model.class_confs)
    hub.writable = False
    with pytest.raises(UserError, match=r"you/squares does not allow this \(log in with `hf auth login`\)"):
        Detector(tiny_run).push_to_hub("you/squares")
