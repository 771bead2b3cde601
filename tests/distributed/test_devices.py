"""Which devices `--device` means, with GPUs as nvidia-smi would list them: there is none here."""

from __future__ import annotations

import os

import pytest
import torch

from cledet.distributed import devices
from cledet.distributed.devices import amp_dtype, own_device, pick_device, pick_devices, within_memory
from cledet.distributed.gpus import Gpu, idle_gpus, idlest, parse_nvidia_smi, query_nvidia_smi, visible_gpus
from cledet.errors import UserError

GIB = 1024
TABLE = """\
0, NVIDIA A100, 40960, 40500, 0
1, NVIDIA A100, 40960, 20480, 0
2, NVIDIA A100, 40960, 40000, 97
3, NVIDIA A100, 40960, 40400, [N/A]
"""


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine whose nvidia-smi prints a table, and whose torch sees as many GPUs as are told."""

    def build(table, count=None, status=0):
        (tmp_path / "table").write_text(table)
        smi = tmp_path / "nvidia-smi"
        smi.write_text(f'#!/bin/sh\ncat "{tmp_path / "table"}"\nexit {status}\n')
        smi.chmod(0o755)
        count = len(table.splitlines()) if count is None else count
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    return build


def cuda(*numbers):
    return tuple(torch.device("cuda", number) for number in numbers)


def gpu(index, free, busy=0, total=40 * GIB):
    return Gpu(index=index, free=free * GIB, total=total, busy=busy)


@pytest.mark.parametrize(
    ("gpus", "numbers", "reason"),
    [
        ([gpu(0, 39), gpu(1, 32, 9)], [0, 1], "2 of 2 GPUs are idle: 0, 1"),  # 32 of 40 GiB is just enough
        (
            [gpu(0, 39), gpu(1, 20), gpu(2, 39, 97), gpu(3, 39)],
            [0, 3],
            "2 of 4 GPUs are idle: 0, 3 (1: 20.0 GiB in use, 0 % busy; 2: 1.0 GiB in use, 97 % busy)",
        ),
        (
            [gpu(0, 10, 50), gpu(1, 38, 10)],
            [1],
            "0 of 2 GPUs are idle: 1 has the most memory free "
            "(0: 30.0 GiB in use, 50 % busy; 1: 2.0 GiB in use, 10 % busy)",
        ),
    ],
)
def test_idle_gpus_and_the_reason(gpus, numbers, reason):
    found, why = idle_gpus(gpus)
    assert [one.index for one in found] == numbers
    assert why == reason


def test_the_idlest_is_idle_then_free_then_first():
    assert idlest([gpu(0, 40, 50), gpu(1, 33), gpu(2, 39), gpu(3, 39)]).index == 2


def test_the_table_of_nvidia_smi():
    first, *_, last = parse_nvidia_smi(TABLE)
    assert first == Gpu(index=0, free=40500, total=40960, busy=0, name="NVIDIA A100")
    assert last.busy == 0
    assert parse_nvidia_smi("0, NVIDIA GB10, [N/A], [N/A], 0\n") == []  # memory shared with the CPU
    assert parse_nvidia_smi("No devices were found\n") == []


@pytest.mark.parametrize(
    ("visible", "free"),
    [(None, [40500, 20480, 40000, 40400]), ("2, 0", [40000, 40500]), ("GPU-c", []), ("-1", []), ("", [])],
)
def test_gpus_are_numbered_as_by_cuda(visible, free):
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    found = visible_gpus(parse_nvidia_smi(TABLE), environ)
    assert [one.free for one in found] == free
    assert [one.index for one in found] == list(range(len(free)))


def test_gpus_of_several_models_are_numbered_by_speed_by_default():
    mixed = parse_nvidia_smi(TABLE.replace("A100", "T4", 1))
    assert visible_gpus(mixed, {}) == []
    assert len(visible_gpus(mixed, {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"})) == 4


def test_auto_selects_every_idle_gpu_and_gives_the_reason(machine):
    machine(TABLE)
    picked = pick_devices("auto")
    assert picked.devices == cuda(0, 3)
    assert picked.reason.startswith("2 of 4 GPUs are idle: 0, 3 (1: 20.0 GiB in use, 0 % busy; 2: ")
    assert pick_devices("cuda:0,cuda:3").devices == picked.devices
    assert pick_device("auto") == torch.device("cuda", 0)


def test_only_visible_gpus_are_selected(machine, monkeypatch):
    machine(TABLE, count=2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert pick_devices("auto").devices == cuda(1)
    assert pick_device("auto") == torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("table", "status"), [("", 0), (TABLE, 9), (TABLE, 0), ("0, NVIDIA GB10, [N/A], [N/A], 0\n", 0)]
)
def test_without_a_matching_table_only_memory_is_considered(machine, monkeypatch, table, status):
    machine(table, count=2, status=status)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda i: ((10, 39)[i] * 1024**3, 40 * 1024**3))
    assert pick_devices("auto").devices == cuda(1)


def test_a_machine_without_nvidia_smi(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert query_nvidia_smi() == ""


def test_within_a_group_auto_is_all_gpus(machine, monkeypatch):
    machine(TABLE)
    for key, value in {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(key, value)
    assert pick_devices("auto").devices == cuda(0, 1, 2, 3)


def test_without_a_gpu(machine, monkeypatch):
    machine("", count=0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_devices("auto").devices == (torch.device("cpu"),)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_devices("auto").devices == (torch.device("mps"),)
    assert pick_device("auto") == pick_device("mps") == torch.device("mps")


@pytest.mark.parametrize(
    ("wanted", "devices"),
    [
        ("0,2", cuda(0, 2)),
        ("cuda:0, cuda:2", cuda(0, 2)),
        ("cuda", cuda(0)),
        ("cuda:1", cuda(1)),
        ("1", cuda(1)),
        ("cpu", (torch.device("cpu"),)),
        ("cpu,cpu:0", (torch.device("cpu"),) * 2),
    ],
)
def test_named_devices(machine, wanted, devices):
    machine(TABLE)
    assert pick_devices(wanted).devices == devices
    assert pick_devices(wanted).reason == ""
    if len(devices) == 1:
        assert pick_device(wanted) == devices[0]


@pytest.mark.parametrize(
    ("wanted", "part"),
    [
        ("4", "this machine shows 4 CUDA GPUs"),
        ("0,7", "--device 0,7: this machine shows 4"),
        ("1,cuda:1", "names cuda:1 twice"),
        ("cuda,0", "names cuda:0 twice"),
        ("cpu,0", "mixes kinds"),
        ("gpu", "'gpu' names no device"),
        ("auto,0", "'auto' names no device"),
        ("0,", "'' names no device"),
        ("-1", "'-1' names no device"),
        ("meta", "meta is not supported"),
        ("mps", "no MPS device"),
    ],
)
def test_mistakes_are_one_sentence(machine, monkeypatch, wanted, part):
    machine(TABLE)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for pick in (pick_devices, pick_device):
        with pytest.raises(UserError, match=part):
            pick(wanted)


def test_one_device_where_one_is_used(machine):
    machine(TABLE)
    with pytest.raises(UserError, match="only training uses several"):
        pick_device("0,2")


CPU, MPS = (torch.device("cpu"),), (torch.device("mps"),)


@pytest.mark.parametrize(
    ("devices", "rank", "size", "own"),
    [
        (cuda(0, 2), 1, 2, "cuda:2"),  # our launcher
        (cuda(0, 1, 2, 3), 1, 2, "cuda:1"),  # auto under torchrun
        (cuda(0), 2, 4, "cuda:2"),  # cuda under torchrun
        (cuda(3), 0, 1, "cuda:3"),
        (CPU, 1, 2, "cpu"),
        (CPU * 2, 1, 2, "cpu"),
        (MPS, 0, 1, "mps"),
    ],
)
def test_the_device_of_a_process(machine, monkeypatch, devices, rank, size, own):
    machine(TABLE)
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(size))
    assert own_device(devices) == torch.device(own)


def test_a_process_that_sees_one_gpu_takes_it(machine, monkeypatch):
    machine(TABLE, count=1)  # as SLURM binds them
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert own_device(cuda(0)) == torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("devices", "size", "part"),
    [
        (cuda(0, 1), 4, "4 .* 2 GPUs"),
        (cuda(1), 2, "2 .* 1 GPUs"),
        (cuda(0), 8, "8 .* 4 GPUs"),
        (MPS, 2, "2 .* 1 GPUs"),
    ],
)
def test_more_processes_than_devices(machine, monkeypatch, devices, size, part):
    machine(TABLE)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(size))
    with pytest.raises(UserError, match=part):
        own_device(devices)


def test_too_little_memory_is_one_sentence_with_what_to_do():
    cpu = torch.device("cpu")
    with pytest.raises(UserError, match=r"the memory of cpu .* is too small") as caught, within_memory(cpu, "lower it"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    assert caught.value.hint == "lower it"
    with pytest.raises(RuntimeError, match="another"), within_memory(cpu, "lower it"):
        raise RuntimeError("another")


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ("fma avx2", None),
        ("avx2 avx512f avx512bw avx512vl", None),  # AVX512 alone emulates bfloat16
        ("avx2 avx512f avx512_bf16", torch.bfloat16),
        ("avx2 amx_tile amx_bf16", torch.bfloat16),
    ],
)
def test_amp_auto_is_bf16_on_cpus_with_units_for_it(monkeypatch, tmp_path, flags, wanted):
    monkeypatch.setattr(devices, "CPU_FEATURES", tmp_path / "cpuinfo")
    assert amp_dtype(torch.device("cpu"), "auto") is None  # the system does not tell
    (tmp_path / "cpuinfo").write_text(f"model name\t: a CPU\nflags\t\t: {flags}\n")
    assert amp_dtype(torch.device("cpu"), "auto") is wanted
    assert amp_dtype(torch.device("cpu"), "off") is None
    assert amp_dtype(torch.device("cpu"), "bf16") is torch.bfloat16
