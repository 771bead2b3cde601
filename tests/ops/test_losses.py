import math

import pytest
import torch
import torchvision
from torch.nn.functional import one_hot

from cledet.ops.losses import distribution_focal_loss, focal_loss, giou_loss, quality_focal_loss, smooth_l1


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


@pytest.mark.parametrize("label", [-1, -2])
def test_ignored_anchors_weigh_nothing_and_background_does(label: int) -> None:
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
