"""Weights of a backbone from a published URL, a file and another URL, with hashes, and without a network."""

from __future__ import annotations

import hashlib
from copy import deepcopy
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import torch

from cledet.errors import UserError
from cledet.models.backbones.build import BACKBONES
from cledet.models.backbones.weights import HASHED, cache_name, fetch, load_imagenet
from cledet.models.network import Architecture, build_network


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of torch.hub's."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder with weights of r18, under a name without hash, with the right and with a wrong one."""
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(5)
    state = build_network(Architecture(backbone="r18", classes=1, fpn_channels=8)).backbone.state_dict()
    torch.save({**state, "fc.weight": torch.zeros(3, 512)}, folder / "plain.pth")
    data = (folder / "plain.pth").read_bytes()
    right = f"r18-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    for name in (right, "r18-00000000.pth"):
        (folder / name).write_bytes(data)
    return folder, right, state


@pytest.fixture(scope="module")
def server(published):
    """The folder's address on loopback."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(published[0]))
    handler.log_message = lambda *_: None
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as found:
        Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()


@cache
def built(backbone):
    torch.manual_seed(6)
    return build_network(Architecture(backbone=backbone, classes=1, fpn_channels=8))


def network(backbone="r18"):
    return deepcopy(built(backbone))


def same(found, state):
    own = found.backbone.state_dict()
    return all(torch.equal(own[key], value) for key, value in state.items())


def test_a_url_is_downloaded_once_with_a_notice(hub, server, published):
    _, right, state = published
    messages = []
    for _ in range(2):
        found = network()
        load_imagenet(found, "r18", f"{server}/{right}?download=1", messages.append)
        assert same(found, state)
    assert messages == [f"fetching the backbone's weights from {server}/{right}?download=1 into {hub}"]
    assert [path.name for path in hub.iterdir()] == [right]


def test_files_of_one_name_at_different_urls_are_different(hub, server, published):
    """Not by their names: the second of /a/w.pt and /b/w.pt would be the first."""
    folder, _, state = published
    for name, value in (("a", 1.0), ("b", 2.0)):
        (folder / name).mkdir()
        torch.save({**state, "bn1.bias": torch.full((64,), value)}, folder / name / "w.pt")
    for name, value in (("a", 1.0), ("b", 2.0), ("a", 1.0)):
        found = network()
        load_imagenet(found, "r18", f"{server}/{name}/w.pt", print)
        assert found.backbone.bn1.bias.eq(value).all()
    assert len(list(hub.iterdir())) == 2
    for name in "ab":
        (folder / name / "w.pt").unlink()
        load_imagenet(network(), "r18", f"{server}/{name}/w.pt", pytest.fail)  # from the cache


@pytest.mark.parametrize("name", ["w.pt", "deadbeef.pth", "", "\U0001f600" * 300 + ".pth"])
def test_a_name_without_hash_is_kept_under_a_hash_of_the_url(name):
    found = [cache_name(f"http://{host}/{name}") for host in ("a", "b")]
    assert found[0] != found[1]
    assert all(HASHED.search(one) is None and one.endswith(name[-50:]) and len(one.encode()) < 256 for one in found)
    assert cache_name("http://a/x-0676ba61.pth?v=2") == "x-0676ba61.pth"


def test_a_deformable_backbone_loads_the_plain_weights(hub, server, published):
    found = network("r18-dcn-c4c5")
    load_imagenet(found, "r18-dcn-c4c5", f"{server}/plain.pth", print)
    assert same(found, published[2])


def test_a_wrong_hash_is_an_error(hub, server, published):
    with pytest.raises(UserError, match=r"could not be fetched from http.*/r18-00000000\.pth: invalid hash value"):
        load_imagenet(network(), "r18", f"{server}/r18-00000000.pth", print)
    assert not list(hub.iterdir())
    (hub / published[1]).write_bytes(b"something else")  # put there by hand
    with pytest.raises(UserError, match=r"does not match the hash in its name: its SHA-256 begins with \w{8} \(delete"):
        load_imagenet(network(), "r18", f"{server}/{published[1]}", print)
    with pytest.raises(UserError, match=r"r18-00000000\.pth does not match the hash in its name"):
        load_imagenet(network(), "r18", (published[0] / "r18-00000000.pth").as_uri(), print)


def test_a_file_and_its_url_are_the_same(published):
    folder, right, state = published
    for source in (str(folder / "plain.pth"), (folder / "plain.pth").as_uri(), (folder / right).as_uri()):
        found = network()
        load_imagenet(found, "r18", source, print)
        assert same(found, state)
    with pytest.raises(UserError, match=r"there is no weights file .*gone\.pth"):
        load_imagenet(network(), "r18", (folder / "gone.pth").as_uri(), print)


def test_without_a_network_the_error_has_a_hint(hub):
    with pytest.raises(UserError) as error:
        fetch("http://127.0.0.1:1/x-0676ba61.pth", lambda _: None, "the ImageNet weights of r50")
    assert error.value.message.startswith("the ImageNet weights of r50 could not be fetched from http://127.0.0.1:1/x-")
    assert error.value.hint == (
        f"put that file into {hub} as x-0676ba61.pth, or pass --backbone-weights FILE, "
        "or --backbone-weights none for random weights"
    )


@pytest.mark.parametrize("name", ["r18", "r18-dcn"])
def test_auto_takes_the_published_file_from_the_cache(hub, published, name, monkeypatch):
    hub.mkdir(parents=True)
    url = f"https://example.org/{published[1]}"
    monkeypatch.setitem(BACKBONES, name, BACKBONES[name].__class__(BACKBONES[name].build, url))
    (hub / published[1]).write_bytes((published[0] / "plain.pth").read_bytes())
    found = network(name)
    load_imagenet(found, name, "auto", pytest.fail)
    assert same(found, published[2])


def test_caffe_backbones_have_no_published_weights():
    found = build_network(Architecture(backbone="r50-caffe", classes=1, fpn_channels=8))
    with pytest.raises(
        UserError, match=r"no published ImageNet weights of r50-caffe to start from \(pass --backbone-w"
    ):
        load_imagenet(found, "r50-caffe", "auto", print)


def test_weights_of_another_network_are_named(published):
    with pytest.raises(UserError, match=r"plain\.pth holds no weights of r34: it lacks layer1\.2\.conv1\.weight and"):
        load_imagenet(network("r34"), "r34", str(published[0] / "plain.pth"), print)
