"""Batch norm over all processes, without frozen statistics."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cledet.models.backbones.build import build_backbone
from cledet.models.backbones.norms import FrozenBatchNorm2d, synchronized


@pytest.mark.parametrize(("norm", "kind"), [("batch", nn.SyncBatchNorm), ("frozen", FrozenBatchNorm2d)])
def test_trained_norms_are_synchronized_and_frozen_ones_stay(norm, kind):
    """A ResNet-18 has 20 norms, of which five belong to the stem and the stage of stride 4."""
    body = build_backbone("r18", norm)
    body.freeze(2)
    names = list(body.state_dict())
    assert synchronized(body) is body
    norms = [module for module in body.train().modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert [type(module) for module in norms] == [kind] * 20
    trained = 15 if norm == "batch" else 0
    assert sum(module.training for module in norms) == trained
    assert sum(module.weight.requires_grad for module in norms) == trained
    assert list(body.state_dict()) == names


def test_a_norm_of_timm_keeps_its_activation():
    """torch's own conversion of `BatchNormAct2d` leaves the activation out."""
    body = build_backbone("timm:test_efficientnet", "batch").eval()
    images, names = torch.randn(1, 3, 64, 64), list(body.state_dict())
    with torch.no_grad():
        before = body(images)
        after = synchronized(body)(images)
    assert any(isinstance(module, nn.SyncBatchNorm) for module in body.modules())
    assert list(body.state_dict()) == names
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other)
