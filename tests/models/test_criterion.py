"""The criterion against plain RetinaNet, and each component where it enters."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torchvision.models.detection import _utils as det_utils
from torchvision.ops import box_iou, sigmoid_focal_loss

from cledet.components.dc import dynamic_coefficient
from cledet.components.iac import IACOptions, iac_score
from cledet.models.anchors import Anchors
from cledet.models.assignment import Targets, positives
from cledet.models.criterion import Criterion
from cledet.models.network import RawOutputs
from cledet.ops.box_coder import encode
from cledet.ops.losses import correlation_loss, smooth_l1
from cledet.training.train_step import combine_parts

SHAPES, IMAGE = [(8, 8), (4, 4)], (64, 64)


def outputs(images=2, classes=3, seed=0, bias=-2.0):
    anchors, strides = Anchors((8, 16), scale=3.0)(SHAPES, IMAGE)
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, len(anchors), classes, generator=g) + bias
    deltas = 0.2 * torch.randn(images, len(anchors), 4, generator=g)
    return RawOutputs(logits.requires_grad_(), deltas.requires_grad_(), anchors, strides, [576, 144])


def targets(*images):
    """Ground truths a list of (x1, y1, x2, y2, label) an image."""
    most = max(map(len, images))
    boxes, labels = torch.zeros(len(images), most, 4), torch.zeros(len(images), most, dtype=torch.int64)
    for i, rows in enumerate(images):
        for j, row in enumerate(rows):
            boxes[i, j], labels[i, j] = torch.tensor(row[:4]), row[4]
    return Targets(boxes, labels, torch.zeros(len(images), 0, 4))


TWO = targets([(4, 4, 30, 28, 1), (30, 20, 60, 62, 2)], [(10, 30, 40, 60, 0)])
PLAIN = Criterion(iac=None, dc=False)


def slow_retinanet(raw, truth):
    """Image by image with torchvision's matcher and focal loss, in float64."""
    matcher = det_utils.Matcher(0.5, 0.4, allow_low_quality_matches=True)
    coder = det_utils.BoxCoder((1.0, 1.0, 1.0, 1.0))
    cls, reg, count = 0.0, 0.0, 0
    for i in range(len(truth.boxes)):
        real = truth.boxes[i].abs().sum(1) > 0
        gt, names = truth.boxes[i][real].double(), truth.labels[i][real]
        assigned = matcher(box_iou(gt, raw.anchors.double()))
        positive = assigned >= 0
        onehot = torch.zeros_like(raw.logits[i], dtype=torch.float64)
        onehot[positive, names[assigned[positive]]] = 1
        valid = assigned != matcher.BETWEEN_THRESHOLDS
        cls = cls + sigmoid_focal_loss(raw.logits[i][valid].double(), onehot[valid], reduction="sum")
        wanted = coder.encode_single(gt[assigned[positive]], raw.anchors[positive].double())
        reg = reg + torch.nn.functional.smooth_l1_loss(
            raw.deltas[i][positive].double(), wanted, beta=1 / 9, reduction="sum"
        )
        count += int(positive.sum())
    return cls / count, reg / count, count


def test_without_components_it_is_retinanet():
    raw = outputs()
    losses = PLAIN(raw, TWO)
    cls, reg, count = slow_retinanet(raw, TWO)
    assert int(losses.positives) == count > 4
    assert int(losses.recalled) == 0
    assert losses.classification.item() == pytest.approx(cls.item(), rel=1e-5)
    assert losses.regression.item() == pytest.approx(reg.item(), rel=1e-5)
    ours = torch.autograd.grad(losses.classification + losses.regression, (raw.logits, raw.deltas))
    theirs = torch.autograd.grad(cls + reg, (raw.logits, raw.deltas))
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-4)


def test_dc_changes_the_gradient_but_not_the_loss():
    raw = outputs()
    plain, dc = PLAIN(raw, TWO), Criterion(iac=None, dc=True)(raw, TWO)
    assert dc.classification.item() == pytest.approx(plain.classification.item(), rel=1e-6)
    assert torch.equal(dc.regression, plain.regression)
    (a,) = torch.autograd.grad(plain.classification, raw.logits, retain_graph=True)
    (b,) = torch.autograd.grad(dc.classification, raw.logits)
    changed = (a != b).any(-1)
    assigned = PLAIN.assign(raw, TWO).gt
    assert changed.any()
    assert not changed[assigned < 0].any()  # only positives are weighted


@pytest.mark.parametrize("unit", ["pixel", "stride", "size"])
def test_every_center_unit_has_its_own_coefficient(unit):
    raw = outputs()
    a, b = (torch.autograd.grad(Criterion(iac=None, center_unit=u)(raw, TWO).classification, raw.logits)[0]
            for u in (unit, "size" if unit != "size" else "pixel"))  # fmt: skip
    assert not torch.equal(a, b)


def test_iac_recalls_only_what_is_already_likely():
    early = outputs(bias=-3.0)
    with torch.no_grad():
        early.logits.clamp_(max=-0.7)  # p < 1/3
    assert int(Criterion()(early, TWO).recalled) == 0
    assert torch.equal(Criterion().assign(early, TWO)[0], PLAIN.assign(early, TWO)[0])
    late = outputs(bias=3.0)
    losses = Criterion()(late, TWO)
    assert int(losses.recalled) > 0
    assert int(losses.positives) == int(losses.recalled) + int(PLAIN(late, TWO).positives)
    floor = Criterion(iac=IACOptions(min_iou=0.3))(late, TWO)
    assert 0 < int(floor.recalled) < int(losses.recalled)


def test_normalizer_matched_counts_only_positives_by_iou():
    late = outputs(bias=3.0)
    both, matched = Criterion()(late, TWO), Criterion(normalizer="matched")(late, TWO)
    ratio = int(both.positives) / (int(both.positives) - int(both.recalled))
    assert ratio > 1
    assert matched.classification.item() == pytest.approx(both.classification.item() * ratio, rel=1e-5)
    assert matched.regression.item() == pytest.approx(both.regression.item() * ratio, rel=1e-5)
    assert torch.equal(Criterion(iac=None, normalizer="matched")(late, TWO).classification,
                       Criterion(iac=None)(late, TWO).classification)  # fmt: skip


def test_the_coefficient_is_logged_with_dc():
    raw = outputs()
    with_dc, without = Criterion(iac=None)(raw, TWO), PLAIN(raw, TWO)
    assert (float(without.coefficient), float(without.spread)) == (1, 0)
    found = positives(raw, TWO, PLAIN.assign(raw, TWO))
    onehot = torch.nn.functional.one_hot(TWO.labels[found.image, found.gt], 3).float()
    loss = sigmoid_focal_loss(raw.logits[found.image, found.anchor], onehot).sum(-1)
    weight = Criterion(iac=None).coefficient(found, loss, 3)
    assert float(with_dc.coefficient) == pytest.approx(float(weight.mean()), rel=1e-5)
    assert float(with_dc.spread) == pytest.approx(float(weight.std(correction=0)), rel=1e-4)
    assert float(with_dc.spread) > 0


@pytest.mark.parametrize("criterion", [PLAIN, Criterion(), Criterion(reg_loss="giou")], ids=["plain", "all", "giou"])
@pytest.mark.parametrize("truth", [targets([], []), targets([], [(3, 3, 3, 9, 1)])], ids=["none", "degenerate"])
def test_images_without_objects_have_background_loss_only(criterion, truth):
    raw = outputs()
    losses = criterion(raw, truth)
    assert int(losses.positives) == 0
    assert losses.regression.item() == 0
    assert losses.classification.item() > 0
    (losses.classification + losses.regression).backward()
    assert raw.logits.grad.isfinite().all()
    assert raw.logits.grad.min() >= 0  # every score is pushed down


def test_an_ignored_region_is_neither_object_nor_background():
    raw = outputs(images=1)
    region = torch.tensor([[[0.0, 0.0, 64.0, 64.0]]])
    losses = PLAIN(raw, Targets(torch.zeros(1, 0, 4), torch.zeros(1, 0, dtype=torch.int64), region))
    (gradient,) = torch.autograd.grad(losses.classification, raw.logits)
    inside = ((raw.anchors[:, :2] >= 0) & (raw.anchors[:, 2:] <= 64)).all(1)
    assert inside.any()
    assert (gradient[0, inside] == 0).all()
    corner = (raw.anchors[:, 2:] <= 13).all(1)  # mostly outside the image, so mostly outside the region
    assert corner.any()
    assert (gradient[0, corner] > 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_are_float32_under_autocast(dtype):
    raw = outputs()
    half = raw._replace(logits=raw.logits.to(dtype), deltas=raw.deltas.to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = Criterion()(half, TWO)
    full = Criterion()(raw._replace(logits=half.logits.float(), deltas=half.deltas.float()), TWO)
    assert losses.classification.dtype == losses.regression.dtype == torch.float32
    assert losses.classification.item() == pytest.approx(full.classification.item(), rel=1e-6)
    assert losses.regression.item() == pytest.approx(full.regression.item(), rel=1e-6)


WEIGHTS = torch.tensor([0.25, 3.0, 0.5])


def entry_loss(name, logit, target, density):
    """One entry of a classification loss in float64; `target` is y or the quality."""
    p = 1 / (1 + math.exp(-logit))
    bce = -(target * math.log(p) + (1 - target) * math.log(1 - p))
    if name == "focal":
        return bce * (0.25 * (1 - p) ** 2 if target else 0.75 * p**2)
    if name == "qfl":
        return bce * (target - p) ** 2
    if name == "varifocal":
        return bce * (target if target > 0 else 0.75 * p**2)
    return bce / density[min(int(abs(p - target) * 30), 29)]


def slow_weighted(criterion, raw, truth):
    """Loop over all entries in float64: the loss of a positive anchor times the weight of its class."""
    assignment = criterion.assign(raw, truth)
    found = positives(raw, truth, assignment)
    scored = criterion.cls_loss in ("qfl", "varifocal")
    quality = {
        (i, a): float(q) if scored else 1.0 for i, a, q in zip(*map(torch.Tensor.tolist, found[:2]), found.quality)
    }
    logits, gt = raw.logits.double().tolist(), assignment.gt.tolist()
    entries = []
    for i, rows in enumerate(logits):
        for a, row in enumerate(rows):
            label = int(truth.labels[i, gt[i][a]]) if gt[i][a] >= 0 else None
            if gt[i][a] >= -1:
                weight = 1.0 if label is None else float(WEIGHTS[label])
                entries += [(x, quality[i, a] if c == label else 0.0, weight) for c, x in enumerate(row)]
    counts = Counter(min(int(abs(1 / (1 + math.exp(-x)) - y) * 30), 29) for x, y, _ in entries)
    density = {place: count * len(counts) for place, count in counts.items()}
    total = sum(weight * entry_loss(criterion.cls_loss, x, y, density) for x, y, weight in entries)
    return total / (1 if criterion.cls_loss == "ghm" else len(quality))


@pytest.mark.parametrize("dc", [False, True])
@pytest.mark.parametrize("cls_loss", ["focal", "qfl", "varifocal", "ghm"])
def test_class_weights_are_those_of_a_loop_in_float64(cls_loss, dc):
    criterion = Criterion(iac=None, dc=dc, cls_loss=cls_loss, class_weights=WEIGHTS)
    raw = outputs()
    expected = slow_weighted(criterion, raw, TWO)
    losses = criterion(raw, TWO)
    assert losses.classification.item() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(losses.regression, replace(criterion, class_weights=None)(raw, TWO).regression)


@pytest.mark.parametrize("cls_loss", ["focal", "qfl", "varifocal", "ghm"])
def test_class_weights_scale_the_gradients_of_positives_only(cls_loss):
    """By hand: objects of classes 1, 2 and 0 with weights 3, 0.5 and 0.25: the ratios of the gradients."""
    raw = outputs()
    plain = Criterion(iac=None, dc=False, cls_loss=cls_loss)
    (a,) = torch.autograd.grad(plain(raw, TWO).classification, raw.logits)
    (b,) = torch.autograd.grad(replace(plain, class_weights=WEIGHTS)(raw, TWO).classification, raw.logits)
    gt = plain.assign(raw, TWO).gt
    factor = torch.ones_like(a[..., 0])
    for image, place, weight in ((0, 0, 3.0), (0, 1, 0.5), (1, 0, 0.25)):
        assert (gt[image] == place).any()
        factor[image, gt[image] == place] = weight
    torch.testing.assert_close(b, a * factor[..., None], rtol=1e-5, atol=1e-9)


def test_dc_keeps_the_sum_of_the_weighted_losses_and_multiplies_the_weights():
    """A positive's gradient is that without weights times its class weight and a coefficient of weighted losses."""
    raw = outputs()
    plain = Criterion(iac=None, dc=False)
    both = replace(plain, dc=True, class_weights=WEIGHTS)
    (a,) = torch.autograd.grad(plain(raw, TWO).classification, raw.logits)
    (b,) = torch.autograd.grad(both(raw, TWO).classification, raw.logits)
    found = positives(raw, TWO, plain.assign(raw, TWO))
    labels = TWO.labels[found.image, found.gt]
    onehot = torch.nn.functional.one_hot(labels, 3).float()
    loss = sigmoid_focal_loss(raw.logits[found.image, found.anchor], onehot).sum(-1) * WEIGHTS[labels]
    unit = (found.gt_boxes[:, 2:] - found.gt_boxes[:, :2]).prod(-1).sqrt()
    coefficient = dynamic_coefficient(found.boxes, found.gt_boxes, unit=unit)
    coefficient = coefficient * loss.sum() / (coefficient * loss).sum()
    expected = a[found.image, found.anchor] * (coefficient * WEIGHTS[labels]).detach()[:, None]
    torch.testing.assert_close(b[found.image, found.anchor], expected, rtol=1e-4, atol=1e-8)


def test_class_weights_without_objects_change_nothing():
    raw = outputs()
    weighted = Criterion(class_weights=WEIGHTS)(raw, targets([], []))
    assert torch.equal(weighted.classification, Criterion()(raw, targets([], [])).classification)


def test_soft_targets_mix_the_losses_of_positive_and_background_by_the_iou():
    late = outputs(bias=3.0)
    iac = IACOptions()
    hard, soft = (Criterion(iac=iac._replace(soft_target=flag), dc=False)(late, TWO) for flag in (False, True))
    criterion = Criterion(iac=iac, dc=False)
    pos = positives(late, TWO, criterion.assign(late, TWO))
    assert pos.recalled.any()
    change = 0.0
    for k in pos.recalled.nonzero().flatten().tolist():
        logits = late.logits[pos.image[k], pos.anchor[k]].double()
        onehot = torch.nn.functional.one_hot(pos.labels[k], 3).double()
        yes, no = (sigmoid_focal_loss(logits, target, reduction="sum") for target in (onehot, 0 * onehot))
        change += float((1 - pos.iou[k]) * (no - yes).detach())
    assert soft.classification.item() == pytest.approx(hard.classification.item() + change / int(hard.n), rel=1e-5)
    assert torch.equal(soft.regression, hard.regression)


def test_recalled_anchors_without_box_loss_leave_that_of_the_matched():
    late = outputs(bias=3.0)
    without = Criterion(iac=IACOptions(box_loss=False), dc=False)(late, TWO)
    assert int(without.recalled) > 0
    assert without.regression.item() == pytest.approx(PLAIN(late, TWO).regression.item(), rel=1e-6)
    assert float(without.recalled_box) == 0
    assert 0 < float(Criterion(dc=False)(late, TWO).recalled_box) < 1


@pytest.mark.parametrize("cls_loss", ["qfl", "varifocal", "mal"])
def test_weights_of_box_losses_are_multiplied(cls_loss):
    """That of the classification loss, and 0 for recalled anchors without a box loss; divided by the sum."""
    late = outputs(bias=3.0)
    criterion = Criterion(iac=IACOptions(box_loss=False), dc=False, cls_loss=cls_loss)
    pos = positives(late, TWO, criterion.assign(late, TWO))
    assert pos.recalled.any()
    logits = late.logits[pos.image, pos.anchor]
    weight = (logits.sigmoid().amax(1) if cls_loss == "qfl" else pos.iou) * ~pos.recalled
    box = smooth_l1(pos.code, encode(pos.gt_boxes, pos.anchors), beta=1 / 9)
    wanted = (weight * box).sum() / weight.sum().clamp(min=1)
    assert criterion(late, TWO).regression.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_recalled_anchors_fade_in_by_their_score():
    """(score - threshold) / (1 - threshold), 1 for anchors matched by IoU, in both losses."""
    late = outputs(bias=1.0)
    criterion = Criterion(iac=IACOptions(fade=True), dc=False, normalizer="matched")
    pos = positives(late, TWO, criterion.assign(late, TWO))
    assert (pos.weight[~pos.recalled] == 1).all()
    faded = pos.weight[pos.recalled]
    assert 0 <= faded.min() < faded.max() < 1
    for k in pos.recalled.nonzero().flatten()[:5].tolist():
        prob = late.logits[pos.image[k], pos.anchor[k], pos.labels[k]].sigmoid()
        score = iac_score(pos.anchors[k], pos.gt_boxes[k], prob)
        assert pos.weight[k].item() == pytest.approx(2 * score.item() - 1, abs=1e-5)
    plain = Criterion(dc=False, normalizer="matched")
    dense = plain.classification(late, plain.assign(late, TWO), pos).flatten()
    losses, n = criterion(late, TWO), int((~pos.recalled).sum())
    total = dense.sum() - dense[pos.flat_index].sum() + (pos.weight * dense[pos.flat_index]).sum()
    assert losses.classification.item() == pytest.approx(total.item() / n, rel=1e-5)
    box = smooth_l1(pos.code, encode(pos.gt_boxes, pos.anchors), beta=1 / 9)
    assert losses.regression.item() == pytest.approx(((pos.weight * box).sum() / pos.weight.sum()).item(), rel=1e-5)
    alone = replace(criterion, normalizer="positives")(late, TWO)  # a faded anchor is less than one of Eq. 4's N
    assert alone.n.item() == pytest.approx(pos.weight.sum().item(), rel=1e-5)
    assert n < alone.n.item() < len(pos.weight)


def test_statistics_of_parts_are_those_of_the_whole():
    """One object on the first image, and on the second five of both kinds, so that the parts weigh differently."""
    many = [(4 + 9 * i, 4, 12 + 9 * i, 12 + 30 * (i % 2), i % 3) for i in range(5)]
    raw, truth = outputs(bias=1.0), targets([(10, 30, 40, 60, 0)], many)
    criterion = Criterion(dc=False)
    whole, parts = criterion(raw, truth), []
    for i in (0, 1):
        one = raw._replace(logits=raw.logits[i : i + 1], deltas=raw.deltas[i : i + 1])
        parts.append(criterion(one, Targets(*(values[i : i + 1] for values in truth))))
    combined = combine_parts(parts)
    for name in ("matched_iou", "recalled_iou", "recalled_box", "compact_positives", "elongated_positives"):
        first, second, wanted = (getattr(one, name).item() for one in (*parts, whole))
        assert first != second or name == "elongated_positives"
        assert getattr(combined, name).item() == pytest.approx(wanted, rel=1e-5)
    assert (combined.compact, combined.elongated) == (whole.compact, whole.elongated) == (4, 2)


@pytest.mark.parametrize("cls_loss", ["focal", "qfl", "mal", "varifocal"])
def test_dc_on_the_true_class_changes_that_entry_only(cls_loss):
    raw = outputs()
    plain = Criterion(iac=None, dc=False, cls_loss=cls_loss)
    one = Criterion(iac=None, dc_scope="class", cls_loss=cls_loss)
    assert one(raw, TWO).classification.item() == pytest.approx(plain(raw, TWO).classification.item(), rel=1e-5)
    (a,) = torch.autograd.grad(plain(raw, TWO).classification, raw.logits)
    (b,) = torch.autograd.grad(one(raw, TWO).classification, raw.logits)
    pos = positives(raw, TWO, plain.assign(raw, TWO))
    changed = ((a - b).abs() > 1e-6).nonzero().tolist()
    assert changed
    assert {tuple(row) for row in changed} <= set(zip(*(x.tolist() for x in (pos.image, pos.anchor, pos.labels))))


@pytest.mark.parametrize("form", ["zero-based", "iou"])
def test_every_form_of_dc_keeps_the_loss_and_has_its_own_gradient(form):
    raw = outputs()
    printed, other = Criterion(iac=None), Criterion(iac=None, dc_form=form)
    assert other(raw, TWO).classification.item() == pytest.approx(printed(raw, TWO).classification.item(), rel=1e-5)
    gradients = [torch.autograd.grad(one(raw, TWO).classification, raw.logits)[0] for one in (printed, other)]
    assert not torch.allclose(*gradients)
    assert float(Criterion(iac=None, dc_form="iou")(raw, TWO).coefficient_iou) == pytest.approx(1)


def test_dc_keeps_the_loss_of_each_class_if_told_so():
    raw = outputs()
    plain, batch, own = (Criterion(iac=None, dc=dc, dc_balance=name) for dc, name in
                         ((False, "batch"), (True, "batch"), (True, "class")))  # fmt: skip
    pos = positives(raw, TWO, plain.assign(raw, TWO))
    loss = plain.classification(raw, plain.assign(raw, TWO), pos).flatten()[pos.flat_index]
    differences = []
    for criterion in (batch, own):
        weight = criterion.coefficient(pos, loss, 3)
        assert float((weight * loss).sum()) == pytest.approx(float(loss.sum()), rel=1e-5)
        differences.append([float(((weight - 1) * loss)[pos.labels == label].sum()) for label in pos.labels.unique()])
    assert len(differences[0]) > 1
    assert min(map(abs, differences[0])) > 1e-3
    assert max(map(abs, differences[1])) < 1e-5


def test_the_correlation_loss_is_added():
    raw = outputs()
    without, with_it = PLAIN(raw, TWO), replace(PLAIN, correlation=0.5)(raw, TWO)
    pos = positives(raw, TWO, PLAIN.assign(raw, TWO))
    score = raw.logits[pos.image, pos.anchor, pos.labels].sigmoid()
    added = 0.5 * correlation_loss(score, pos.iou).item()
    assert with_it.classification.item() == pytest.approx(without.classification.item() + added, rel=1e-5)


def test_l1_is_the_mean_absolute_error_of_the_codes():
    raw = outputs()
    pos = positives(raw, TWO, PLAIN.assign(raw, TWO))
    error = (pos.code - encode(pos.gt_boxes, pos.anchors)).abs().sum() / len(pos.gt)
    assert replace(PLAIN, reg_loss="l1")(raw, TWO).regression.item() == pytest.approx(error.item(), rel=1e-5)
