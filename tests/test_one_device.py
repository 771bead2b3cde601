"""What is computed on a GPU stays on it: the code that a GPU runs, on a pretended one, where devices must not meet."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from cledet.config.train import TrainSettings
from cledet.data.dataset import Batch
from cledet.distributed import collectives
from cledet.evaluation.candidates import all_candidates, from_network, to_results
from cledet.inference.frame import Frame
from cledet.inference.predictor import Predictor
from cledet.inference.views import ViewOptions
from cledet.models import criterion as criterion_module
from cledet.models import losses as losses_module
from cledet.models.criterion import Criterion, Losses
from cledet.models.network import Architecture, build_network
from cledet.models.nms import NMS, NMSOptions, apply_nms
from cledet.models.signatures import SIGNATURES
from cledet.training.auto_batch import build_largest_images
from cledet.training.init_model import build_criterion
from cledet.training.train_step import TrainStep, reduce_losses

GPU = torch.device("cuda", 0)
ATEN = torch.ops.aten
TAKES_NUMBERS = (ATEN.where.self, ATEN.index_put_.default, ATEN.mul_.Tensor)
"""Operations that torch itself gives a number as a tensor on the CPU: Python's, or what clipping multiplies by."""


class OnGpu(torch.Tensor):
    """A tensor that says it is on a GPU; its values are in `inner`, on the CPU, so control flow by values works.

    For autograd it is on the CPU, as its engine has no queue for a GPU that is not there. No operation takes it
    together with a tensor that is not of this class. That is stricter than CUDA, which takes numbers (tensors of no
    dimension) from the CPU in some operations and not in others, and indices at the price of a copy.
    """

    inner: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> OnGpu:
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype
        )
        made.inner = inner
        return made

    device = property(lambda self: GPU)
    is_cuda = property(lambda self: GPU.type == "cuda")
    is_cpu = property(lambda self: False)

    def __repr__(self) -> str:
        return f"OnGpu({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        owners: dict[int, OnGpu] = {}

        def enter(value: Any) -> Any:
            if isinstance(value, OnGpu):
                owners[id(value.inner)] = value
                return value.inner
            if isinstance(value, torch.Tensor) and not _is_of_torch(func, value):
                raise RuntimeError(f"{func} was given {tuple(value.shape)} on the CPU beside tensors on the GPU")
            return value

        def leave(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            if GPU.type == "mps" and value.dtype == torch.float64:
                raise TypeError(f"{func} made float64, which MPS does not have")
            return owners[id(value)] if id(value) in owners else OnGpu(value)

        return tree_map(leave, func(*tree_map(enter, args), **tree_map(enter, kwargs or {})))


def _is_of_torch(func: Any, value: torch.Tensor) -> bool:
    """Whether torch itself made this tensor on the CPU: a number, or in index_put's backward the zeros it puts."""
    if func is ATEN.index_put.default:
        return torch._C._current_graph_task_id() != -1 and not value.any()
    return func in TAKES_NUMBERS and value.ndim == 0


class PretendedGpu(TorchFunctionMode):
    """Within it, what names the GPU as a device gets it, without CUDA."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in ("to", "cpu", "cuda", "numpy", "tolist") and isinstance(args[0], torch.Tensor):
            return getattr(self, name)(*args, **kwargs)
        if kwargs.get("device") is not None and torch.device(kwargs["device"]).type == GPU.type:
            return OnGpu(func(*args, **{**kwargs, "device": "cpu"}))
        return func(*args, **kwargs)

    def to(self, tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Tensor.to, in which another tensor stands for its device and dtype."""
        if args and isinstance(args[0], torch.Tensor):
            args, kwargs = (), {"device": args[0].device, "dtype": args[0].dtype, **kwargs}
        device, dtype, _, layout = torch._C._nn._parse_to(*args, **{k: v for k, v in kwargs.items() if k != "copy"})
        options = {name: value for name, value in (("dtype", dtype), ("memory_format", layout)) if value is not None}
        moved = tensor.to(**options) if options else tensor
        if device is None or (device.type == GPU.type) == isinstance(moved, OnGpu):
            return moved
        return moved.inner if isinstance(moved, OnGpu) else OnGpu(moved.detach())

    def cpu(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.inner if isinstance(tensor, OnGpu) else tensor

    def numpy(self, tensor: torch.Tensor) -> Any:
        if isinstance(tensor, OnGpu):
            raise TypeError("a tensor on the GPU has no numpy()")
        return tensor.numpy()

    def tolist(self, tensor: torch.Tensor) -> Any:
        return self.cpu(tensor).tolist()


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.__future__, "get_overwrite_module_params_on_conversion", lambda: True)
    with PretendedGpu():
        yield GPU


@pytest.fixture
def mps(gpu, monkeypatch):
    """The pretended GPU is Apple's, on which no operation may make float64."""
    monkeypatch.setitem(globals(), "GPU", torch.device("mps", 0))
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: None)  # refuses a device that is not there
    return GPU


@pytest.fixture
def two_processes(monkeypatch):
    """Two processes, the other of which holds the same values; what goes over NCCL must be on a GPU."""

    def all_reduce(value: torch.Tensor) -> None:
        value.mul_(2)

    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    monkeypatch.setattr(collectives, "world_size", lambda: 2)
    monkeypatch.setattr(collectives, "data_parallel", lambda network, device: network)  # DDP is torch's own


def batch(images: int = 2) -> Batch:
    """Images of 64x128 px with two objects and an ignored region each, but the first, which has none."""
    made = build_largest_images(images, 64, 2)
    made.boxes = torch.tensor([[8.0, 8, 40, 44], [30, 4, 60, 60]]).repeat(images, 1, 1)
    made.boxes[0] = 0
    made.ignored = torch.tensor([[[70.0, 10, 90, 60]]]).repeat(images, 1, 1)
    return made


def learner(**settings: Any) -> TrainStep:
    train_settings = TrainSettings(amp="off", imgsz=64, backbone_weights="none", fpn_channels=32, batch=4, **settings)
    torch.manual_seed(0)
    arch = Architecture(backbone="r18", classes=2, fpn_channels=32, norm="batch", head=train_settings.head)
    return TrainStep(build_network(arch), build_criterion(train_settings), train_settings, GPU, 10)


def test_the_pretended_gpu_refuses_what_cuda_refuses(gpu):
    on_gpu = torch.ones(3, device=gpu)
    assert on_gpu.device == gpu
    assert on_gpu.is_cuda
    assert (on_gpu * 2).sum().item() == 6
    for wrong in (
        lambda: on_gpu * torch.ones(3),
        lambda: torch.stack([on_gpu.sum(), torch.tensor(0.0)]),
        lambda: torch.cat([on_gpu, torch.zeros(1)]),
        lambda: torch.arange(3)[on_gpu.long()],
        lambda: on_gpu.index_select(0, torch.tensor([1])),
        lambda: torch.zeros(3).index_put_((on_gpu.long(),), on_gpu),
    ):
        with pytest.raises(RuntimeError, match="on the CPU beside tensors on the GPU"):
            wrong()
    with pytest.raises(TypeError):
        on_gpu.numpy()
    assert type(on_gpu.cpu()) is torch.Tensor
    assert torch.zeros(2).to(on_gpu).device == gpu


@pytest.mark.parametrize("part", ["classification", "positives", "n"])
def test_a_loss_on_the_cpu_is_found(gpu, two_processes, part):
    losses = Losses(*(torch.ones((), device=gpu) for _ in Losses._fields))
    assert all(value.device == gpu for value in reduce_losses(losses))
    if part != "n":  # which is a sum over processes already
        with pytest.raises(RuntimeError, match="on the CPU"):
            reduce_losses(losses._replace(**{part: torch.tensor(0.0)}))


HEADS = {
    "retinanet": {},
    "ghm": {"cls_loss": "ghm", "reg_loss": "giou"},
    "matched": {
        **{"normalizer": "matched", "recall_cap": 2, "recall_fill": 9, "recall_center": True, "recall_target": "hard"},
        **{"dc_form": "as-printed", "center_unit": "stride"},
    },
    "atss": {"assign": "atss", "cls_loss": "varifocal", "reg_loss": "diou", "ablation": "dc"},
    "gfl": {"head": "gfl"},
    "fcos": {"head": "fcos"},
    "fcos-anywhere": {"head": "fcos", "center_sampling": 0, "reg_loss": "ciou"},
    "paa": {"assign": "paa"},
    "tal": {"assign": "tal", "cls_loss": "qfl"},
    "mal": {
        **{"cls_loss": "mal", "reg_loss": "l1", "correlation": 0.2},
        **{"dc_form": "iou", "dc_scope": "class", "dc_balance": "class"},
    },
    "readings": {
        **{"recall_relative": 0.9, "recall_overlap": "predicted", "recall_box_loss": False, "recall_fade": True},
    },
}


def test_a_training_step_in_one_part_stays_on_the_gpu(gpu):
    check_step(1)


def test_a_training_step_makes_no_float64_on_mps(mps):
    with pytest.raises(TypeError, match="float64, which MPS does not have"):
        torch.ones(3, device=mps).double()
    check_step(1)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.slow
def test_a_training_step_of_two_processes_in_two_parts_stays_on_the_gpu(gpu, two_processes, head):
    check_step(2, **HEADS[head])


def check_step(accumulate: int, **settings: Any) -> None:
    trained = learner(accumulate=accumulate, **settings)
    parts = [batch() for _ in range(accumulate)]
    assert all(parameter.device == GPU for parameter in trained.network.parameters())
    losses = trained.compute_gradients(parts, 5)
    assert {name for name, value in losses._asdict().items() if value.device.type != "cpu"} == set()  # copied at once
    assert all(torch.isfinite(value) for name, value in losses._asdict().items() if name not in SIGNATURES)
    assert int(losses.positives) > 0
    trained.update(5)


def test_every_choice_of_the_criterion_is_among_them():
    chosen = [TrainSettings(**given) for given in HEADS.values()]
    for field, choices in (
        ("assign", criterion_module.ASSIGNMENTS),
        ("cls_loss", losses_module.CLS_LOSSES),
        ("reg_loss", losses_module.REG_LOSSES),
    ):
        assert {one.of_head(field) for one in chosen} == set(choices)
    assert {one.normalizer for one in chosen} == set(losses_module.NORMALIZERS)
    assert {one.dc_form for one in chosen} == set(criterion_module.COEFFICIENTS)
    assert {one.dc_balance for one in chosen} == {"batch", "class"}


def test_a_tensor_on_the_cpu_in_the_criterion_is_found(gpu, monkeypatch):
    """As it was: the number of positives, made on the default device."""
    original = Criterion.__call__

    def as_before(self: Criterion, *args: Any) -> Losses:
        losses = original(self, *args)
        return losses._replace(positives=torch.tensor(int(losses.positives)))

    monkeypatch.setattr(Criterion, "__call__", as_before)
    with pytest.raises(RuntimeError, match="on the CPU beside tensors on the GPU"):
        learner(accumulate=2).compute_gradients([batch(), batch()], 5)


@pytest.mark.parametrize("method", NMS)
@pytest.mark.parametrize("head", ["retinanet", "fcos"])
def test_prediction_stays_on_the_gpu(gpu, head, method):
    check_prediction(head, method)


@pytest.mark.parametrize("method", NMS)
def test_prediction_makes_no_float64_on_mps(mps, method):
    check_prediction("retinanet", method)


def check_prediction(head: str, method: str) -> None:
    trained = learner(head=head)
    trained.network.requires_grad_(False)
    options = NMSOptions(method=method, conf=0.0, cl_score="max", cl_norm="diagonal")
    for found in from_network.__wrapped__(trained.network, [batch()], 0.0, (3, 7), GPU, None):
        assert found.boxes.device == GPU
        kept = apply_nms(found.boxes, found.scores, found.labels, options)
        assert {part.device for part in kept} == {GPU}
        assert len(to_results(found, kept)) == len(kept.keep) > 0
        assert len(all_candidates(found)) == len(found.boxes)


@pytest.mark.parametrize("views", [ViewOptions(), ViewOptions(side=80), ViewOptions(tta=True, scales=(1.0,))])
@pytest.mark.parametrize("agnostic", [False, True])
def test_images_are_predicted_on_the_gpu(gpu, monkeypatch, views, agnostic):
    check_images(monkeypatch, views, agnostic)


@pytest.mark.parametrize("views", [ViewOptions(side=80), ViewOptions(tta=True, scales=(1.0,))])
def test_images_are_predicted_without_float64_on_mps(mps, monkeypatch, views):
    check_images(monkeypatch, views, agnostic=False)


def check_images(monkeypatch: pytest.MonkeyPatch, views: ViewOptions, agnostic: bool) -> None:
    monkeypatch.setattr(Predictor, "_run", torch.no_grad()(Predictor._run.__wrapped__))
    predictor = Predictor(
        network=learner().network,
        options=NMSOptions(conf=0.0),
        imgsz=64,
        device=GPU,
        dtype=None,
        names=("a", "b"),
        category_ids=(3, 7),
        agnostic=agnostic,
        classes=(1,),
        view_options=views,
    )
    frames = [Frame(image=np.full((70, 90, 3), value, np.uint8), path=None, name="x") for value in (99, 30)]
    for found in predictor.stream(frames, 2):
        assert len(found) > 20
        assert {one.category_id for one in found} == {7}
        assert type(found.boxes) is torch.Tensor
