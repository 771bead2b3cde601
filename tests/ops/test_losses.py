import math

import pytest
import torch
import torchvision
from torch.nn.functional import one_hot

from cledet.ops.losses import focal_loss, giou_loss, smooth_l1


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
