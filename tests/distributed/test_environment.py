"""Detection of a launch in the environments of torchrun, SLURM and others, by table."""

from __future__ import annotations

import pytest

from cledet.distributed.environment import first_host, group_environment, in_group, rank
from cledet.errors import UserError

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "a",
    "MASTER_PORT": "1",
}
JOB = {"SLURM_JOB_ID": "50007", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
TASK = JOB | {
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_STEP_TASKS_PER_NODE": "1,3",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}


@pytest.mark.parametrize(
    ("environ", "joins", "number"),
    [
        ({}, False, 0),
        (TORCHRUN, True, 3),
        ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, True, 0),  # torchrun --nproc-per-node 1
        ({"RANK": "0", "WORLD_SIZE": "1"}, False, 0),  # a pod of one, as Kubeflow starts it
        ({"RANK": "1", "WORLD_SIZE": "2"}, True, 1),  # and one of two
        ({"RANK": "", "WORLD_SIZE": "2"}, False, 0),
        ({"RANK": "2", "WORLD_SIZE": "2"}, False, 0),
        (JOB, False, 0),  # the batch script of a job of four tasks
        (JOB | {"SLURM_STEP_ID": "4294967291", "SLURM_STEP_NUM_TASKS": "4"}, False, 0),  # the same, newer
        (JOB | {"SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "4"}, False, 0),  # salloc's shell
        (TASK | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, False, 0),  # srun -n1
        (TASK | {"SLURM_PTY_PORT": "40000"}, False, 0),  # srun -n4 --pty bash
        (TASK, True, 2),
        (TASK | TORCHRUN, True, 3),  # srun torchrun
    ],
)
def test_detection_of_a_launch(environ, joins, number):
    assert in_group(environ=environ) is joins
    assert rank(environ) == number


def test_slurm_tasks_with_nnodes_launch_workers_that_join():
    assert not in_group(2, TASK)
    assert in_group(2, TASK | TORCHRUN)


def test_slurms_variables_become_torchs():
    assert group_environment(TASK) == {
        "RANK": "2",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "3",
        "MASTER_ADDR": "gpu07",
        "MASTER_PORT": str(12_000 + 10_009),  # 50007 + 2 modulo 20000
    }
    alone = group_environment(TASK | {"SLURM_STEP_NUM_NODES": "1", "MASTER_PORT": "5"})
    assert alone["MASTER_ADDR"] == "127.0.0.1"
    assert "MASTER_PORT" not in alone  # it is there


def test_torchs_own_are_only_completed():
    assert group_environment({}) == {}
    assert group_environment(TORCHRUN) == {}
    pod = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    assert group_environment(pod) == {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    with pytest.raises(UserError, match="MASTER_PORT is not"):
        group_environment({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a"})


@pytest.mark.parametrize(
    ("listed", "first"),
    [
        ("node1", "node1"),
        ("a1,b2", "a1"),
        ("host[01-04,7],login", "host01"),
        ("host[7,01-04]", "host7"),
        ("rack[1-2]n[3,5]-ib,x", "rack1n3-ib"),
    ],
)
def test_the_first_host_of_a_list(listed, first):
    assert first_host(listed) == first


@pytest.mark.parametrize(("tasks", "node", "local"), [("2(x3),1", 2, 2), ("2(x3),1", 3, 1), ("4", 0, 4), ("", 0, 1)])
def test_tasks_on_a_node(tasks, node, local):
    environ = TASK | {"SLURM_STEP_TASKS_PER_NODE": tasks, "SLURM_NODEID": str(node)}
    assert group_environment(environ)["LOCAL_WORLD_SIZE"] == str(local)
