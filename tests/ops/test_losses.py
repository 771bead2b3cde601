import math

import pytest
import torch
import torchvision
from torch.nn.functional import one_hot

from cledet.ops import losses
from cledet.ops.losses import (
    ciou_loss,
    correlation_loss,
    diou_loss,
    distribution_focal_loss,
    focal_loss,
    ghm_loss,
    giou_loss,
    matchability_loss,
    quality_focal_loss,
    smooth_l1,
    varifocal_loss,
)


def sample(m: int, classes: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(m)
    logits = torch.randn(m, classes, dtype=dtype, generator=generator) * 4
    return logits.requires_grad_(), torch.randint(-2, classes, (m,), generator=generator)


def reference(logits: torch.Tensor, labels: torch.Tensor, alpha: float, gamma: float) -> torch.Tensor:
    target = one_hot(labels.clamp(min=0), logits.shape[1]).to(logits.dtype) * (labels >= 0)[:, None]
    loss = torchvision.ops.sigmoid_focal_loss(logits, target, alpha=alpha, gamma=gamma).sum(-1)
    return loss * (labels != -2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.6, 1.5), (0.5, 0.0), (0.1, 1.0)])
@pytest.mark.parametrize("classes", [1, 80])
def test_value_and_gradient_equal_torchvision(classes: int, alpha: float, gamma: float, dtype: torch.dtype) -> None:
    logits, labels = sample(200, classes, dtype)
    weight = torch.rand(200, dtype=dtype)
    ours, theirs = (
        focal_loss(logits, labels, alpha=alpha, gamma=gamma),
        reference(logits, labels, alpha, gamma),
    )
    assert torch.allclose(ours, theirs, rtol=1e-6 if dtype == torch.float64 else 1e-5, atol=1e-6)
    (grad,) = torch.autograd.grad((ours * weight).sum(), logits)
    (wanted,) = torch.autograd.grad((theirs * weight).sum(), logits)
    assert torch.allclose(grad, wanted, rtol=1e-6, atol=1e-6)
    assert grad.abs().max() > 0.1


def test_gradcheck() -> None:
    logits, labels = sample(12, 5)
    assert torch.autograd.gradcheck(lambda x: focal_loss(x, labels), logits)
    assert torch.autograd.gradcheck(lambda x: focal_loss(x, labels, alpha=0.4, gamma=1.3), logits)


def test_by_hand() -> None:
    # logit 0: p = 0.5. Negative 0.75 * 0.25 * log 2, positive 0.25 * 0.25 * log 2
    loss = focal_loss(torch.zeros(3, 2), torch.tensor([-1, 1, -2]))
    assert loss.tolist() == pytest.approx([0.375 * math.log(2), 0.25 * math.log(2), 0])


def test_far_logits_are_exact() -> None:
    logits = torch.tensor([[100.0], [-100.0], [100.0], [-100.0]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([-1, -1, 0, 0]))
    assert loss.tolist() == pytest.approx([75, 0, 0, 25])
    loss.sum().backward()
    assert logits.grad is not None
    assert logits.grad.squeeze().tolist() == pytest.approx([0.75, 0, 0, -0.25])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_logits_are_computed_in_float32(dtype: torch.dtype) -> None:
    logits, labels = sample(300, 80, torch.float32)
    half = logits.detach().to(dtype).requires_grad_()
    full = half.detach().float().requires_grad_()
    assert focal_loss(half, labels).dtype == torch.float32
    assert torch.equal(focal_loss(half, labels), focal_loss(full, labels))
    # the scale of a GradScaler keeps gradients that float16 alone would lose
    for x in (half, full):
        (focal_loss(x, labels).sum() * 1024).backward()
    assert half.grad is not None
    assert half.grad.dtype == dtype
    assert full.grad is not None
    assert torch.equal(half.grad, full.grad.to(dtype))


CLASS_LOSSES = {
    "focal": lambda x, labels, **more: focal_loss(x, labels, **more),
    "qfl": lambda x, labels, **more: quality_focal_loss(x, labels, quality_of(x, labels), **more),
    "varifocal": lambda x, labels, **more: varifocal_loss(x, labels, quality_of(x, labels), **more),
    "ghm": lambda x, labels, **more: ghm_loss(x, labels, **more),
}


def quality_of(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Quality [P] of the positives, the first 0."""
    return torch.linspace(0, 1, int((labels >= 0).sum()), dtype=logits.dtype)


@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_a_loss_is_the_same_in_blocks_and_with_known_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = sample(101, 6)
    whole = CLASS_LOSSES[name](logits, labels)
    (wanted,) = torch.autograd.grad(whole.square().sum(), logits)
    monkeypatch.setattr(losses, "_blocks", lambda values: [slice(i, i + 7) for i in range(0, len(values), 7)])
    blocks = CLASS_LOSSES[name](logits, labels, rows=(labels >= 0).nonzero().squeeze(-1))
    (found,) = torch.autograd.grad(blocks.square().sum(), logits)
    torch.testing.assert_close(blocks, whole, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_the_loss_of_a_logit_that_is_not_a_number_is_none_either(name: str) -> None:
    """So that the step can be left out; GHM sorts the logits into bins, where nan has no place."""
    logits, labels = sample(20, 3)
    with torch.no_grad():
        logits[0, 0] = torch.nan
    labels[0] = -1
    loss = CLASS_LOSSES[name](logits, labels)
    assert loss[0].isnan()
    assert loss[1:].isfinite().all()


def test_blocks_cover_all_rows_once() -> None:
    for rows, classes in ((0, 80), (1, 1), (5000, 80), (70000, 3), (3, 1_000_000)):
        values = torch.empty(rows, 1).expand(rows, classes)
        assert torch.cat([torch.arange(rows)[block] for block in losses._blocks(values)] or [torch.zeros(0)]).tolist() \
            == list(range(rows))  # fmt: skip


@pytest.mark.parametrize("name", ["focal", "qfl", "varifocal"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_second_derivative_is_refused(name: str, weighted: bool) -> None:
    logits, labels = sample(30, 4)
    weight = torch.rand(30, dtype=torch.float64, requires_grad=weighted)
    loss = (CLASS_LOSSES[name](logits, labels) * weight).sum()
    (gradient,) = torch.autograd.grad(loss, logits, create_graph=True)
    assert torch.equal(gradient, torch.autograd.grad(loss, logits)[0])
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        (gradient.sum() + logits.sum()).backward()


@pytest.mark.parametrize("name", ["focal", "qfl", "varifocal"])
def test_gradients_of_the_class_losses(name: str) -> None:
    logits, labels = sample(12, 5)
    assert torch.autograd.gradcheck(lambda x: CLASS_LOSSES[name](x, labels), logits)


@pytest.mark.parametrize("name", ["focal", "qfl", "varifocal"])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_float32_is_as_exact_as_its_precision(name: str, scale: float) -> None:
    """A confident positive has a large loss as a negative, which must not cost digits of the other classes' loss."""
    logits, labels = sample(500, 20)
    with torch.no_grad():
        logits.mul_(scale / 4)
        logits[labels == 3, 3] = 90.0
    single = logits.detach().float().requires_grad_()
    double = single.detach().double().requires_grad_()
    ours, wanted = CLASS_LOSSES[name](single, labels), CLASS_LOSSES[name](double, labels)
    torch.testing.assert_close(ours.double(), wanted, rtol=2e-6, atol=1e-12)
    for loss in (ours, wanted):
        loss.sum().backward()
    assert single.grad is not None
    assert double.grad is not None
    torch.testing.assert_close(single.grad.double(), double.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["focal", "qfl", "varifocal"])
def test_a_class_loss_is_the_same_under_autocast_and_when_traced_by_dynamo(name: str) -> None:
    logits, labels = sample(50, 4, torch.float32)
    wanted = CLASS_LOSSES[name](logits, labels)
    (gradient,) = torch.autograd.grad(wanted.sum(), logits)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(CLASS_LOSSES[name](logits, labels), wanted)
    compiled = torch.compile(CLASS_LOSSES[name], backend="eager")(logits, labels)
    assert torch.equal(compiled, wanted)
    assert torch.equal(torch.autograd.grad(compiled.sum(), logits)[0], gradient)


@pytest.mark.parametrize("label", [-1, -2])
def test_ignored_anchors_have_no_loss_and_background_has(label: int) -> None:
    logits = torch.ones(4, 3, requires_grad=True)
    loss = focal_loss(logits, torch.full((4,), label))
    loss.sum().backward()
    assert logits.grad is not None
    assert (loss == 0).all() == (label == -2)
    assert (logits.grad == 0).all() == (label == -2)


def test_no_anchors() -> None:
    logits = torch.zeros(0, 80, requires_grad=True)
    loss = focal_loss(logits, torch.zeros(0, dtype=torch.long))
    loss.sum().backward()
    assert loss.shape == (0,)
    assert logits.grad is not None
    assert logits.grad.shape == (0, 80)


def test_smooth_l1_by_hand() -> None:
    # under beta 1 half the square, over it the distance less a half: 0.5 * 0.25 + (2 - 0.5)
    pred, target = torch.tensor([[0.5, 2.0, 0, 0]]), torch.zeros(1, 4)
    assert smooth_l1(pred, target, 1).tolist() == pytest.approx([1.625])
    assert smooth_l1(pred, target, 0).tolist() == pytest.approx([2.5])
    assert smooth_l1(pred.half(), target.half(), 0).dtype == torch.float32
    assert smooth_l1(torch.zeros(0, 4), torch.zeros(0, 4), 0).shape == (0,)


def test_giou_by_hand() -> None:
    # same box: 0. Two 10 x 10 side by side, 10 apart: 1 - 0 + (300 - 200) / 300
    box = torch.tensor([[0.0, 0, 10, 10]])
    loss = giou_loss(box.repeat(2, 1), torch.cat([box, box + torch.tensor([20, 0, 20, 0])]))
    assert loss.tolist() == pytest.approx([0, 4 / 3], abs=1e-5)
    assert giou_loss(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)


def slow_quality(logits: torch.Tensor, labels: torch.Tensor, quality: torch.Tensor, beta: float) -> torch.Tensor:
    """Class by class; `quality` [M] with a value for every anchor."""
    rows = []
    for x, label, q in zip(logits, labels.tolist(), quality):
        terms = [x.new_zeros(())]
        for c in range(len(x)) if label != -2 else ():
            y, p = (q if c == label else torch.zeros_like(q)), x[c].sigmoid()
            terms.append((y - p).abs() ** beta * -(y * p.log() + (1 - y) * (1 - p).log()))
        rows.append(torch.stack(terms).sum())
    return torch.stack(rows)


@pytest.mark.parametrize("beta", [2.0, 1.0])
def test_quality_focal_loss_equals_the_slow_loop(beta: float) -> None:
    logits, labels = sample(40, 5)
    quality = torch.rand(40, dtype=torch.float64)
    ours = quality_focal_loss(logits, labels, quality[labels >= 0], beta=beta)
    theirs = slow_quality(logits, labels, quality, beta)
    assert torch.allclose(ours, theirs, rtol=1e-9)
    weight = torch.rand(40, dtype=torch.float64)
    (grad,), (wanted,) = (torch.autograd.grad((loss * weight).sum(), logits) for loss in (ours, theirs))
    assert torch.allclose(grad, wanted, rtol=1e-8)
    assert (grad[labels == -2] == 0).all()


def test_quality_focal_loss_by_hand() -> None:
    # logit 0: p = 0.5 and any binary cross entropy log 2; |0 - 0.5|^2 and |0.75 - 0.5|^2
    loss = quality_focal_loss(torch.zeros(3, 2), torch.tensor([-1, 1, -2]), torch.tensor([0.75]))
    assert loss.tolist() == pytest.approx([0.5 * math.log(2), 0.3125 * math.log(2), 0])
    exact = quality_focal_loss(torch.tensor([[0.7]]).logit(), torch.tensor([0]), torch.tensor([0.7]))
    assert exact.tolist() == pytest.approx([0], abs=1e-12)  # the score says what the box is worth


def test_quality_focal_loss_without_positives_and_for_half() -> None:
    none = torch.empty(0, dtype=torch.float64)
    loss = quality_focal_loss(torch.zeros(2, 3, dtype=torch.float64), torch.tensor([-1, -2]), none)
    assert loss.tolist() == pytest.approx([0.75 * math.log(2), 0])
    assert quality_focal_loss(torch.zeros(1, 1).half(), torch.tensor([0]), torch.ones(1)).dtype == torch.float32


def test_distribution_focal_loss_by_hand() -> None:
    # over 0, 1, 2, 3 with shares 0.1, 0.2, 0.3, 0.4: at 1.25 three quarters of -log 0.2 and one of -log 0.3
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log().expand(5, 4)
    loss = distribution_focal_loss(logits, torch.tensor([1.25, 0.0, 2.0, 3.0, 2.5]))
    mid = -0.75 * math.log(0.2) - 0.25 * math.log(0.3)
    last = -0.5 * math.log(0.3) - 0.5 * math.log(0.4)
    assert loss.tolist() == pytest.approx([mid, -math.log(0.1), -math.log(0.3), -math.log(0.4), last], rel=1e-6)


def test_distribution_focal_loss_is_least_for_the_two_shares_around_the_target() -> None:
    target = torch.tensor([[2.3, 0.9]], dtype=torch.float64)
    best = torch.full((1, 2, 5), 1e-9, dtype=torch.float64)
    best[0, 0, 2], best[0, 0, 3], best[0, 1, 0], best[0, 1, 1] = 0.7, 0.3, 0.1, 0.9
    logits = best.log().requires_grad_()
    loss = distribution_focal_loss(logits, target)
    assert loss.shape == (1, 2)
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    assert grad.abs().max() < 1e-8
    assert torch.autograd.gradcheck(
        lambda x: distribution_focal_loss(x, target), torch.randn_like(best).requires_grad_()
    )


def test_varifocal_loss_equals_the_slow_loop() -> None:
    logits, labels = sample(40, 5)
    quality = torch.rand(40, dtype=torch.float64)
    quality[(labels >= 0).nonzero()[0]] = 0  # a box that misses: its class is a negative like the others
    rows = []
    for x, label, q in zip(logits, labels.tolist(), quality):
        terms = [x.new_zeros(())]
        for c in range(len(x)) if label != -2 else ():
            y, p = (q if c == label else 0 * q), x[c].sigmoid()
            bce = -(y * p.log() + (1 - y) * (1 - p).log())
            terms.append(y * bce if y > 0 else 0.6 * p**1.5 * bce)
        rows.append(torch.stack(terms).sum())
    ours, theirs = varifocal_loss(logits, labels, quality[labels >= 0], alpha=0.6, gamma=1.5), torch.stack(rows)
    assert torch.allclose(ours, theirs, rtol=1e-9)
    weight = torch.rand(40, dtype=torch.float64)
    (grad,), (wanted,) = (torch.autograd.grad((loss * weight).sum(), logits) for loss in (ours, theirs))
    assert torch.allclose(grad, wanted, rtol=1e-8)


def test_varifocal_loss_by_hand() -> None:
    # logit 0: p = 0.5 and any binary cross entropy log 2; a negative weighs 0.75 * 0.25, a positive its quality
    loss = varifocal_loss(torch.zeros(3, 2).half(), torch.tensor([-1, 1, -2]), torch.tensor([0.8]))
    assert loss.dtype == torch.float32
    assert loss.tolist() == pytest.approx([0.375 * math.log(2), (0.1875 + 0.8) * math.log(2), 0])


def test_gradient_harmonized_loss_by_hand() -> None:
    # |p - y| is 0.5, 0.5 and 0.88 in two bins of 2 and 1 entries; what is ignored counts in none
    loss = ghm_loss(torch.tensor([[0.0], [0.0], [2.0], [7.0]]), torch.tensor([-1, 0, -1, -2]))
    assert loss.tolist() == pytest.approx([math.log(2) / 4, math.log(2) / 4, math.log(1 + math.e**2) / 2, 0])
    # of two processes with the same entries each bin has twice as many
    both = ghm_loss(torch.tensor([[0.0], [2.0]]), torch.tensor([-1, -1]), total=lambda counts: 2 * counts)
    assert both.tolist() == pytest.approx([math.log(2) / 4, math.log(1 + math.e**2) / 4])
    # wrong by 1 exactly is in the last bin, not behind it
    sure = torch.tensor([[200.0], [-200.0], [6.0]], requires_grad=True)
    ghm_loss(sure, torch.tensor([-1, 0, -1])).sum().backward()
    assert sure.grad is not None
    assert sure.grad.flatten().tolist() == pytest.approx([1 / 3, -1 / 3, 1 / (3 + 3 * math.e**-6)])


def test_gradient_harmonized_loss_equals_the_slow_loop() -> None:
    logits, labels = sample(60, 4)
    entries: dict[int, list[tuple[int, torch.Tensor]]] = {}
    for i, (x, label) in enumerate(zip(logits, labels.tolist())):
        for c in range(4) if label != -2 else ():
            p = x[c].sigmoid()
            wrong = 1 - p if c == label else p
            entries.setdefault(min(int(float(wrong.detach()) * 10), 9), []).append((i, -(1 - wrong).log()))
    wanted = torch.zeros(60, dtype=torch.float64)
    for members in entries.values():
        for i, loss in members:
            wanted[i] = wanted[i] + loss / len(members) / len(entries)
    ours = ghm_loss(logits, labels, bins=10)
    assert torch.allclose(ours, wanted, rtol=1e-9)
    (grad,), (expected,) = (torch.autograd.grad(loss.sum(), logits) for loss in (ours, wanted))
    assert torch.allclose(grad, expected, rtol=1e-8)
    assert (grad[labels == -2] == 0).all()


def test_diou_and_ciou_by_hand() -> None:
    # two 10 x 10, 20 apart, in a box of 30 x 10: 1 - 0 + 400 / 1000; and one of 10 x 20 around the same corner
    box = torch.tensor([[0.0, 0, 10, 10]])
    pred = torch.cat([box, box + torch.tensor([20, 0, 20, 0]), torch.tensor([[0.0, 0, 10, 20]])])
    diou, ciou = diou_loss(pred, box.repeat(3, 1)), ciou_loss(pred, box.repeat(3, 1))
    assert diou.tolist() == pytest.approx([0, 1.4, 0.5 + 25 / 500], abs=1e-5)
    v = 4 / math.pi**2 * (math.atan(1) - math.atan(0.5)) ** 2
    assert ciou.tolist() == pytest.approx([0, 1.4, 0.55 + v * v / (0.5 + v)], abs=1e-5)
    assert ciou_loss(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)


@pytest.mark.parametrize("loss", [giou_loss, diou_loss, ciou_loss])
def test_a_predicted_box_of_no_size_has_a_finite_loss_and_gradient(loss) -> None:  # type: ignore[no-untyped-def]
    pred = torch.tensor([[5.0, 5, 5, 5], [900.0, 700, 900, 700], [3, 3, 3, 8]], requires_grad=True)
    value = loss(pred, torch.tensor([[0.0, 0, 10, 10]] * 3))
    value.sum().backward()
    assert pred.grad is not None
    assert value.isfinite().all()
    assert pred.grad.isfinite().all()


def test_matchability_equals_a_loop_in_float64():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(40, 5, generator=generator)
    labels = torch.randint(-2, 5, (40,), generator=generator)
    quality = torch.rand(int((labels >= 0).sum()), generator=generator)
    wanted, qualities = [], iter(quality.double().tolist())
    for row, label in zip(logits.double().tolist(), labels.tolist()):
        q = next(qualities) ** 1.5 if label >= 0 else 0.0
        total = 0.0
        for k, x in enumerate(row):
            p = 1 / (1 + math.exp(-x))
            hot = -q * math.log(p) - (1 - q) * math.log(1 - p)
            total += hot if k == label else -(p**1.5) * math.log(1 - p)
        wanted.append(0.0 if label == -2 else total)
    assert matchability_loss(logits, labels, quality).tolist() == pytest.approx(wanted, rel=1e-5)


def test_correlation_by_hand():
    """Means 0.5 and 0.7, variances 0.09 and 0.01, covariance 0.03: 1 - 0.06 / (0.1 + 0.04)."""
    scores, iou = torch.tensor([0.2, 0.8]), torch.tensor([0.6, 0.8])
    assert correlation_loss(scores, iou).item() == pytest.approx(1 - 0.06 / 0.14)
    assert torch.autograd.gradcheck(lambda s: correlation_loss(s, iou.double()), scores.double().requires_grad_())
    assert correlation_loss(iou, iou).item() == pytest.approx(0)
    assert correlation_loss(1 - iou, iou - 0.4).item() == pytest.approx(2)
    for few in (torch.zeros(0), torch.tensor([0.3])):
        assert correlation_loss(few, few).item() == 0
    assert math.isfinite(correlation_loss(torch.ones(3), torch.ones(3)).item())
