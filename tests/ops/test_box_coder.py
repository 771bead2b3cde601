import math

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder

from cledet.ops.box_coder import decode, decode_distances, encode, encode_distances


def random_boxes(n: int) -> torch.Tensor:
    corner, side = torch.rand(2, n, 2, generator=torch.Generator().manual_seed(n)) * 100 + 10
    return torch.cat([corner, corner + side], 1)


def test_by_hand() -> None:
    # anchor 10 x 20 around (5, 10), object 20 x 20 around (10, 10): half a width to the right, twice as wide
    deltas = encode(torch.tensor([[0.0, 0, 20, 20]]), torch.tensor([[0.0, 0, 10, 20]]))
    assert deltas[0].tolist() == pytest.approx([0.5, 0, math.log(2), 0])


def test_equals_torchvision() -> None:
    gt, anchors = random_boxes(100), random_boxes(101)[:100]
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    deltas = torch.randn(100, 4) * 3  # some dw, dh over log(1000 / 16) = 4.1
    deltas[0, 2:] = 50
    assert torch.allclose(encode(gt, anchors), coder.encode_single(gt, anchors), rtol=1e-6, atol=1e-6)
    assert torch.allclose(decode(deltas, anchors), coder.decode_single(deltas, anchors), rtol=1e-6, atol=1e-4)
    assert torch.allclose(decode(encode(gt, anchors), anchors), gt, atol=1e-3)


def test_sides_are_clamped() -> None:
    box = decode(torch.tensor([[0.0, 0, 1000, 1000]]), torch.tensor([[0.0, 0, 16, 16]]))
    assert (box[0, 2] - box[0, 0]).item() == pytest.approx(1000, rel=1e-4)


def test_leading_dimensions_broadcast_and_empty_stays_empty() -> None:
    anchors = random_boxes(5)
    batch = torch.randn(3, 5, 4)
    assert torch.equal(decode(batch, anchors)[2], decode(batch[2], anchors))
    assert encode(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0, 4)


def test_boxes_without_area_give_finite_deltas() -> None:
    point, box = torch.tensor([[3.0, 3, 3, 3]]), torch.tensor([[0.0, 0, 8, 8]])
    assert encode(point, box).isfinite().all()
    assert encode(box, point).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_deltas_decode_in_float32(dtype: torch.dtype) -> None:
    deltas, anchors = torch.randn(5, 4).to(dtype), random_boxes(5)
    assert decode(deltas, anchors).dtype == torch.float32
    assert torch.equal(decode(deltas, anchors), decode(deltas.float(), anchors))


def test_distances_by_hand() -> None:
    """From the centre 24, 24 of an anchor of stride 8: 1, 2, 0.5 and 3 strides to the sides."""
    anchors, strides = torch.tensor([[16.0, 16, 32, 32]]), torch.tensor([8.0])
    box = torch.tensor([[16.0, 8, 28, 48]])
    assert encode_distances(box, anchors, strides).tolist() == [[1, 2, 0.5, 3]]
    shares = torch.full((4, 5), 1e-12)
    for side, (low, share) in enumerate([(1, 1.0), (2, 1.0), (0, 0.5), (3, 1.0)]):
        shares[side, low] = share
        shares[side, low + 1] += 1 - share
    assert torch.allclose(decode_distances(shares.log().flatten()[None], anchors, strides), box, atol=1e-4)
    assert encode_distances(torch.tensor([[30.0, 8, 40, 48]]), anchors, strides)[0, 0] < 0  # the centre is outside


def test_distances_are_decoded_from_distributions_around_them() -> None:
    """In any shape; equal shares mean the middle of the range."""
    g = torch.Generator().manual_seed(0)
    anchors = torch.rand(2, 3, 4, generator=g) * 50
    strides = torch.tensor([8.0, 16.0, 32.0]).expand(2, 3)
    even = decode_distances(torch.zeros(2, 3, 4 * 17), anchors, strides)
    assert torch.allclose(encode_distances(even, anchors, strides), torch.full((2, 3, 4), 8.0), atol=1e-4)
    code = torch.randn(2, 3, 68, generator=g)
    slow = torch.stack(
        [sum(i * p[..., i] for i in range(17)) for p in code.view(2, 3, 4, 17).softmax(-1).unbind(2)], -1
    )
    assert torch.allclose(encode_distances(decode_distances(code, anchors, strides), anchors, strides), slow, atol=1e-4)
    assert decode_distances(code.half(), anchors, strides).dtype == torch.float32
