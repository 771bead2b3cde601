"""The threads around the network: order, bounds, errors of threads, and a clean end."""

from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pytest
import torch

from cledet.errors import UserError
from cledet.inference import pipeline
from cledet.inference.frame import Frame, Item, broken
from cledet.inference.pipeline import ReadAhead, Writer
from cledet.inference.results import Results


def frame(number, side=4):
    return Frame(np.full((side, side, 3), number % 256, np.uint8), None, str(number))


def result(number, side=4):
    none = (torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    return Results(None, np.zeros((side, side, 3), np.uint8), *none, ("a",), (1,), name=str(number))


def no_errors(name, error):
    raise AssertionError(name)


def slow(number):
    time.sleep(0.001 * (number * 7 % 5))
    return frame(number)


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("cledet-")]


@pytest.fixture(autouse=True)
def all_threads_end():
    yield
    deadline = time.monotonic() + 5
    while threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threads() == []


def items(count, read=slow):
    for i in range(count):
        yield Item(str(i), lambda i=i: read(i))


@pytest.mark.parametrize("count", [0, 1, 3, 200])
@pytest.mark.parametrize("readers", [1, 4])
def test_frames_keep_their_order(count, readers):
    with ReadAhead(items(count), no_errors, threads=readers) as frames:
        assert [one.name for one in frames] == [str(i) for i in range(count)]
        with pytest.raises(StopIteration):
            next(frames)


def test_images_are_decoded_ahead_of_the_caller():
    """Two are in work at the same time, before the caller takes the first."""
    both = threading.Barrier(2, timeout=10)

    def read(number):
        if number < 2:
            both.wait()
        return frame(number)

    with ReadAhead(items(3, read), no_errors, threads=2) as frames:
        assert [one.name for one in frames] == ["0", "1", "2"]


def test_broken_images_are_told_in_order_and_the_rest_goes_on():
    told = []

    def mixed():
        for i in range(30):
            yield broken(str(i), UserError(f"bad {i}")) if i % 3 == 0 else Item(str(i), lambda i=i: slow(i))

    with ReadAhead(mixed(), lambda name, error: told.append((name, str(error), len(told)))) as frames:
        seen = [(int(one.name), len(told)) for one in frames]
    assert [number for number, _ in seen] == [i for i in range(30) if i % 3]
    assert [name for name, _, _ in told] == [str(i) for i in range(0, 30, 3)]
    assert all(count == number // 3 + 1 for number, count in seen)


@pytest.mark.parametrize("where", ["item", "source"])
def test_other_errors_are_raised_in_their_place(where):
    def source():
        yield from items(5)
        if where == "source":
            raise ZeroDivisionError("in the generator")
        yield Item("5", lambda: 1 / 0)

    found = []
    with ReadAhead(source(), no_errors) as frames, pytest.raises(ZeroDivisionError):
        found.extend(one.name for one in frames)
    assert found == ["0", "1", "2", "3", "4"]


def test_few_images_wait_however_long_the_source_is():
    taken = itertools.count()

    def endless():
        for i in taken:
            yield Item(str(i), lambda i=i: frame(i))

    with ReadAhead(endless(), no_errors, threads=2) as frames:
        for _ in range(5):
            next(frames)
        time.sleep(0.1)
    assert next(taken) <= 5 + pipeline.HELD_IMAGES + 2 + 1


def test_large_images_wait_in_smaller_number(monkeypatch):
    monkeypatch.setattr(pipeline, "HELD_BYTES", 3 * 100 * 100 * 3)
    taken = itertools.count()

    def endless():
        for i in taken:
            yield Item(str(i), lambda i=i: frame(i, side=100))

    with ReadAhead(endless(), no_errors, threads=1) as frames:
        next(frames)
        time.sleep(0.1)
    assert next(taken) <= 1 + 3 + 1 + 1


def test_closing_ends_the_source():
    closed = threading.Event()

    def source():
        try:
            for i in itertools.count():
                yield Item(str(i), lambda i=i: frame(i))
        finally:
            closed.set()

    with ReadAhead(source(), no_errors) as frames:
        next(frames)
    assert closed.wait(5)


def put_all(sinks, count, pause=0.0, error=None):
    with Writer(sinks) as writer:
        for i in range(count):
            writer.put(result(i))
            time.sleep(pause)
        if error is not None:
            raise error


class Sink:
    def __init__(self, fail_at=None, fail_at_end=False, pause=0.0):
        self.names, self.closed = [], False
        self.fail_at, self.fail_at_end, self.pause = fail_at, fail_at_end, pause

    def write(self, result):
        time.sleep(self.pause)
        if result.name == self.fail_at:
            raise UserError(f"the disk is full at {result.name}")
        self.names.append(result.name)

    def close(self):
        self.closed = True
        if self.fail_at_end:
            raise UserError("the disk is full at the end")


def test_results_are_written_in_order_by_every_sink():
    one, two = Sink(pause=0.001), Sink()
    put_all([one, two], 100)
    assert one.names == two.names == [str(i) for i in range(100)]
    assert one.closed
    assert two.closed


def test_a_full_disk_reaches_the_caller():
    sink, other = Sink(fail_at="3"), Sink()
    with pytest.raises(UserError, match="full at 3"):
        put_all([sink, other], 1000, pause=0.001)
    assert sink.names == other.names == ["0", "1", "2"]
    assert sink.closed
    assert other.closed


@pytest.mark.parametrize("sink", [Sink(fail_at="9"), Sink(fail_at_end=True)])
def test_an_error_at_the_end_reaches_the_caller(sink):
    with pytest.raises(UserError, match="the disk is full"):
        put_all([sink], 10)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_interruption_loses_nothing_that_was_put(error):
    sink = Sink(pause=0.005)
    with pytest.raises(error):
        put_all([sink], 12, error=error)
    assert sink.names == [str(i) for i in range(12)]
    assert sink.closed


def test_few_results_wait_for_a_slow_sink(monkeypatch):
    monkeypatch.setattr(pipeline, "HELD_BYTES", 3 * 100 * 100 * 3)
    going = threading.Event()

    class Waiting(Sink):
        def write(self, result):
            going.wait(10)
            super().write(result)

    sink, put = Waiting(), []

    def work(writer):
        for i in range(50):
            writer.put(result(i, side=100))
            put.append(i)

    with Writer([sink]) as writer:
        thread = threading.Thread(target=work, args=(writer,))
        thread.start()
        time.sleep(0.1)
        assert len(put) <= 5
        going.set()
        thread.join()
    assert len(sink.names) == 50
