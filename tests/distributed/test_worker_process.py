"""The cause among several failures, and its report."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from cledet.distributed.worker import lost_peer, record_of
from cledet.distributed.worker_process import Failure, intended_end, report
from cledet.errors import Interrupted, OutputClosed, ProcessFailed, UserError


def recorded(error):
    def crash():
        raise error

    try:
        crash()
    except BaseException as caught:
        return record_of(caught)


def failure(rank, error=None, *, exitcode=1, stderr=""):
    return Failure(rank, exitcode, recorded(error) if error else {}, stderr)


def killed(rank, name):
    return failure(rank, exitcode=-getattr(signal, name))


LOST = RuntimeError("Connection closed by peer")


@pytest.mark.parametrize(
    ("failures", "rank"),
    [
        ([failure(0, LOST), failure(1, ValueError("x"))], 1),
        ([failure(0, LOST), killed(1, "SIGKILL")], 1),
        ([failure(0, LOST), killed(1, "SIGSEGV"), killed(2, "SIGTERM")], 1),
        ([failure(0, LOST), failure(1, exitcode=7)], 1),  # os._exit
        ([failure(1, ValueError("x")), killed(0, "SIGABRT")], 1),  # NCCL's watchdog
        ([failure(0, Interrupted(15, Path("run"))), failure(1, ValueError("x"))], 1),
        ([killed(0, "SIGTERM")], 0),
    ],
)
def test_the_cause(failures, rank):
    assert all(str(report(found, 4, "h")).startswith(f"rank {rank} of 4 on h ") for found in (failures, failures[::-1]))


def test_a_connection_lost_while_clearing_up_is_no_lost_peer():
    first = ValueError("x")
    second = RuntimeError("NCCL error: remote process exited")
    assert lost_peer(second)
    second.__context__ = first
    assert not lost_peer(second)
    second.__context__ = LOST
    assert lost_peer(second)
    assert not lost_peer(ValueError("NCCL"))


def test_a_user_error_is_raised_again():
    found = intended_end([{}, recorded(LOST), recorded(UserError("no file x", "look"))])
    assert isinstance(found, UserError)
    assert (found.message, found.hint) == ("no file x", "look")


def test_a_closed_output_is_raised_again():
    """The worker that prints has lost its reader, and the other one its peer."""
    assert isinstance(intended_end([recorded(LOST), recorded(OutputClosed())]), OutputClosed)
    assert isinstance(intended_end([recorded(OutputClosed()), {}]), OutputClosed)


def test_interrupted_is_raised_only_if_it_ended_all_workers():
    stopped = recorded(Interrupted(15, Path("runs/x")))
    found = intended_end([stopped, stopped])
    assert isinstance(found, Interrupted)
    assert (found.signal_number, found.run) == (15, Path("runs/x"))
    assert intended_end([stopped, {}]) is None
    assert intended_end([]) is None


def test_a_crash_is_reported_with_its_traceback():
    text = str(report([failure(3, ValueError("boxes"))], 4, "gpu7"))
    assert text.startswith("rank 3 of 4 on gpu7 failed:\nTraceback (most recent call last):\n")
    assert text.endswith("ValueError: boxes")


def test_a_lost_connection_refers_to_the_other_nodes():
    assert str(report([failure(0, LOST)], 4, "h")).endswith(
        "peer\na process of another node ended before: its output tells the reason"
    )


@pytest.mark.parametrize(
    ("failed", "text"),
    [
        (killed(1, "SIGKILL"), "rank 1 of 2 on h was killed by SIGKILL, as the system does when memory runs out"),
        (killed(1, "SIGBUS"), "rank 1 of 2 on h was killed by SIGBUS"),
        (failure(1, exitcode=-44), "rank 1 of 2 on h was killed by signal 44"),
        (failure(1, exitcode=7, stderr="a\nb\n"), "rank 1 of 2 on h ended with exit code 7:\na\nb"),
    ],
)
def test_workers_that_leave_no_record(failed, text):
    found = report([failed], 2, "h")
    assert isinstance(found, ProcessFailed)
    assert str(found) == text
