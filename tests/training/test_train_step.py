"""Gradients of a step: equal in parts and as a whole, and no change of state by an unfinished step."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch

from cledet.config.loading import resolve
from cledet.config.train import TrainSettings
from cledet.models.criterion import Losses
from cledet.models.network import Architecture, build_network
from cledet.models.signatures import SIGNATURES
from cledet.training.auto_batch import build_largest_images
from cledet.training.init_model import build_criterion
from cledet.training.train_step import NotFinite, TrainStep, combine_parts

SMALL = {"backbone": "r18", "backbone_weights": "none", "fpn_channels": 16, "imgsz": 64, "batch": 4, "workers": 0,
         "device": "cpu", "amp": "off", "warmup": 0}  # fmt: skip


def learner(norm: str = "group", **settings: object) -> TrainStep:
    torch.manual_seed(0)
    chosen = resolve(TrainSettings, {**SMALL, **settings, "norm": norm}, environ={})
    network = build_network(Architecture(backbone="r18", classes=2, fpn_channels=16, norm=norm))
    return TrainStep(network, build_criterion(chosen), chosen, torch.device("cpu"), 100)


def batch(images: int, boxes: int = 3):
    torch.manual_seed(1)
    made = build_largest_images(images, 64, boxes)
    made.boxes[1] = 0  # an image without objects: its part has another N
    made.counts[1] = 0
    return made


def parts_of(whole):
    fields = [getattr(whole, name) for name in whole.__slots__]
    return [type(whole)(*(field[i : i + 1] for field in fields)) for i in range(len(whole))]


def gradients(one: TrainStep) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in one.network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("ablation", ["none", "iac"])
def test_a_batch_in_parts_has_the_gradients_of_the_whole(ablation: str) -> None:
    whole, parted = learner(ablation=ablation), learner(ablation=ablation)
    sample = batch(4)
    losses = whole.compute_gradients([sample], 0)
    in_parts = parted.compute_gradients(parts_of(sample), 0)
    assert float(in_parts.classification) == pytest.approx(float(losses.classification), rel=1e-5)
    assert float(in_parts.regression) == pytest.approx(float(losses.regression), rel=1e-5)
    assert int(in_parts.positives) == int(losses.positives) > 0
    for name, gradient in gradients(whole).items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(gradients(parted)[name], gradient, rtol=1e-5, atol=1e-5 * scale, msg=name)


def test_dc_in_parts_keeps_the_loss_and_nearly_the_gradient() -> None:
    """Eq. 3 is over the anchors of a part then, so a part's coefficients have a mean of their own."""
    whole, parted, plain = (learner(ablation=name) for name in ("dc", "dc", "none"))
    sample = batch(4)
    losses, in_parts = whole.compute_gradients([sample], 0), parted.compute_gradients(parts_of(sample), 0)
    plain.compute_gradients([sample], 0)
    assert float(in_parts.classification) == pytest.approx(float(losses.classification), rel=1e-5)
    name = "head.classification.predict.weight"
    wanted = gradients(whole)[name]
    assert (gradients(parted)[name] - wanted).norm() < 0.5 * (gradients(plain)[name] - wanted).norm()


def test_components_begin_at_their_fractions_of_the_run() -> None:
    """Of 100 steps, DC weighs from step 25 on, and IAC recalls from step 50 on; the other losses stay."""
    every_overlap = {"alpha": 0.0}  # recalls by the overlap alone
    one = learner(ablation="iac,dc", dc_start=0.25, recall_start=0.5, **every_overlap)
    found = {step: one.compute_gradients([batch(4)], step) for step in (0, 24, 25, 49, 50, 99)}
    assert {step: float(losses.spread) > 0 for step, losses in found.items()} == {
        0: False, 24: False, 25: True, 49: True, 50: True, 99: True,
    }  # fmt: skip
    assert {step: int(losses.recalled) > 0 for step, losses in found.items()} == {
        0: False, 24: False, 25: False, 49: False, 50: True, 99: True,
    }  # fmt: skip
    plain = learner(ablation="none").compute_gradients([batch(4)], 0)
    assert float(found[24].classification) == pytest.approx(float(plain.classification), rel=1e-5)
    assert float(found[24].regression) == pytest.approx(float(plain.regression), rel=1e-5)


def test_a_step_waits_once_for_all_logged_values(monkeypatch: pytest.MonkeyPatch) -> None:
    one, copies = learner(), []
    cpu = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: copies.append(self) or cpu(self))
    losses = one.compute_gradients([batch(4)], 0)
    one.update(0)
    assert [tuple(value.shape) for value in copies] == [(len(Losses._fields) + 1,)]
    assert {value.device.type for value in losses} == {"cpu"}


@pytest.mark.parametrize("norm", ["batch", "frozen", "group"])
def test_a_step_moves_statistics_and_an_unfinished_one_puts_them_back(norm: str) -> None:
    one = learner(norm)
    before = {name: value.clone() for name, value in one.network.state_dict().items()}
    losses = one._losses

    def failing(*args):
        losses(*args)
        raise RuntimeError("stopped in the middle")

    one._losses = failing  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="in the middle"):
        one.compute_gradients([batch(4)], 0)
    assert all(torch.equal(value, before[name]) for name, value in one.network.state_dict().items())
    assert gradients(one) == {}
    one._losses = losses  # type: ignore[method-assign]
    one.compute_gradients([batch(4)], 0)
    moved = [name for name, value in one.network.state_dict().items() if not torch.equal(value, before[name])]
    assert any("running_mean" in name for name in moved) == (norm == "batch")
    one.update(0)
    assert not torch.equal(one.network.head.classification.predict.weight, before["head.classification.predict.weight"])


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_gradient_that_is_not_finite_is_refused(accumulate: int) -> None:
    one = learner("batch")
    before = {name: value.clone() for name, value in one.network.state_dict().items()}
    one.network.head.regression.predict.bias.register_hook(lambda gradient: gradient * float("inf"))
    parts = parts_of(batch(4)) if accumulate > 1 else [batch(4)]
    with pytest.raises(NotFinite, match="the gradient is not finite"):
        one.compute_gradients(parts, 0)
    assert all(torch.equal(value, before[name]) for name, value in one.network.state_dict().items())
    assert gradients(one) == {}


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_gradients_are_clipped_by_their_norm(clip: float) -> None:
    plain, clipped = learner(clip=0.0), learner(clip=clip)
    for one in (plain, clipped):
        one.compute_gradients([batch(4)], 0)
    norm = torch.stack([gradient.double().norm() for gradient in gradients(plain).values()]).norm()
    assert norm > 1
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(gradients(clipped)[name], gradient * (clip / float(norm) if clip else 1))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_fused_optimizer_updates_as_the_loop_does(optimizer: str) -> None:
    """On the CPU it reads tensors in the order of memory, so gradients and state must lie as the weights do."""
    fused, loop = learner(optimizer=optimizer, lr=0.001), learner(optimizer=optimizer, lr=0.001)
    assert all(group["fused"] for group in fused.optimizer.param_groups)
    for group in loop.optimizer.param_groups:
        group["fused"] = False
    for step in range(3):
        for one in (fused, loop):
            one.compute_gradients([batch(4)], step)
            one.update(step)
        for (name, value), other in zip(fused.network.named_parameters(), loop.network.parameters()):
            torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_state_of_an_older_optimizer_is_loaded(optimizer: str) -> None:
    """As cledet 0.1.0 saved it, without the fused implementation; here in another layout too."""
    one, other = learner(optimizer=optimizer), learner(optimizer=optimizer)
    one.compute_gradients([batch(4)], 0)
    one.update(0)
    state = deepcopy(one.state_dict())
    saved = state["optimizer"]
    for group in saved["param_groups"]:
        group.update(fused=None, foreach=None)
    for values in saved["state"].values():
        values.update({name: value.contiguous() for name, value in values.items()})
    other.load_state_dict(state)
    for step in (1, 2):
        for resumed in (one, other):
            resumed.compute_gradients([batch(4)], step)
            resumed.update(step)
    assert all(group["fused"] for group in other.optimizer.param_groups)
    assert all(torch.equal(a, b) for a, b in zip(one.network.parameters(), other.network.parameters()))


def test_a_loss_that_is_not_finite_is_named() -> None:
    one = learner()
    with torch.no_grad():
        one.network.head.regression.predict.bias.fill_(float("nan"))
    with pytest.raises(NotFinite, match=r"^the regression loss is nan$"):
        one.compute_gradients([batch(4)], 0)


def test_losses_of_parts_by_hand() -> None:
    """Sums of 8 and 4 over N of 4 and 0; the second part has no positives, so no coefficient.

    Statistics are means over the parts that have them, by what they are means over: (4 * 0.5 + 12 * 0.9) / 16.
    """
    none = dict.fromkeys(SIGNATURES, torch.tensor(float("nan"))) | dict.fromkeys(
        ("compact", "elongated"), torch.zeros(())
    )
    parts = [(2.0, 1.0, 4, 1, 1.5, 0.5), (4.0, 0.0, 0, 0, float("nan"), float("nan"))]
    whole = combine_parts([Losses(*map(torch.tensor, p), **none, n=torch.tensor(p[2])) for p in parts])
    assert [float(value) for value in whole[:6]] == [3.0, 1.0, 4, 1, 1.5, 0.5]
    assert float(whole.n) == 4
    assert all(math.isnan(getattr(whole, name)) for name in SIGNATURES)
    first, second = (
        Losses(*map(torch.tensor, (1.0, 1.0, count, 0, 1.0, 0.0)), **none, n=torch.tensor(count)) for count in (4, 12)
    )
    first, second = first._replace(matched_iou=torch.tensor(0.5)), second._replace(matched_iou=torch.tensor(0.9))
    assert float(combine_parts([first, second]).matched_iou) == pytest.approx(0.8)


def test_the_average_follows_the_weights() -> None:
    one = learner(ema=0.5)
    start = one.network.head.classification.predict.weight.detach().clone()
    one.compute_gradients([batch(4)], 0)
    one.update(0)
    now = one.network.head.classification.predict.weight.detach()
    average = one.inference_network().head.classification.predict.weight
    torch.testing.assert_close(average, now)  # the first update copies
    one.compute_gradients([batch(4)], 1)
    one.update(1)
    later = one.network.head.classification.predict.weight.detach()
    torch.testing.assert_close(average, (now + later) / 2)
    assert not torch.equal(start, later)


def test_parameters_without_a_gradient_are_frozen_and_stay_in_the_optimizer():
    """Several processes would wait for them; older runs have them in their groups."""
    settings = resolve(TrainSettings, SMALL, environ={})
    network = build_network(Architecture(backbone="r18", classes=2, fpn_channels=16, norm="batch"))
    unused = list(network.backbone.layer4[1].parameters())
    network.backbone.unused = unused
    one = TrainStep(network, build_criterion(settings), settings, torch.device("cpu"), 100)
    assert [p.requires_grad for p in unused] == [False] * 6
    grouped = {id(p) for group in one.optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in network.parameters()} == grouped
    before = [p.clone() for p in unused]
    one.compute_gradients([batch(2)], 0)
    one.update(0)
    assert all(torch.equal(p, old) for p, old in zip(unused, before))
