"""Threads around the network: images are decoded ahead of it and results are written behind it, both in order."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from types import TracebackType

from cledet.errors import UserError
from cledet.inference.frame import Frame, Item
from cledet.inference.results import Results
from cledet.inference.sinks import Sink

HELD_BYTES = 1 << 28
"""Bytes of decoded images that may wait on either side of the network, beside one per thread."""
HELD_IMAGES = 16
"""Most images that wait on either side, however small they are."""
READERS = min(4, os.cpu_count() or 1)
"""Threads that decode images."""
_PATIENCE = 1.0
"""Seconds that `close` waits for a thread that is reading from a camera or server."""


class ReadAhead:
    """Iterator of the decoded images of `items`, in order. Threads decode ahead of it.

    If an image cannot be read, `on_error(name, error)` is called by the iterating thread, and the next image follows.
    Any other exception of a thread is raised in the place of its image.
    """

    def __init__(
        self, items: Generator[Item], on_error: Callable[[str, UserError], None], *, threads: int = READERS
    ) -> None:
        self._items, self._on_error = items, on_error
        self._taking = threading.Lock()
        """Held by the thread that takes the next item, which fixes the order."""
        self._changed = threading.Condition()
        """Guards the fields below."""
        self._waiting: deque[tuple[str, Future[Frame]]] = deque()
        self._held = 0
        self._ended = False
        for _ in range(threads):
            threading.Thread(target=self._work, name="cledet-read", daemon=True).start()

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if not self._waiting:
                    raise StopIteration
                name, future = self._waiting[0]
            try:
                frame = future.result()
            except UserError as error:
                self._remove(0)
                self._on_error(name, error)
            else:
                self._remove(frame.image.nbytes)
                return frame

    def close(self) -> None:
        """End the threads and drop the images that wait. A thread that waits for input ends with the program."""
        with self._changed:
            self._ended = True
            self._waiting.clear()
            self._changed.notify_all()
        if self._taking.acquire(timeout=_PATIENCE):
            try:
                self._items.close()
            finally:
                self._taking.release()

    def _remove(self, size: int) -> None:
        with self._changed:
            self._waiting.popleft()
            self._held -= size
            self._changed.notify_all()

    def _work(self) -> None:
        while (taken := self._take()) is not None:
            item, future = taken
            try:
                frame = item.read()
            except BaseException as error:
                future.set_exception(error)
            else:
                with self._changed:
                    self._held += frame.image.nbytes
                future.set_result(frame)

    def _take(self) -> tuple[Item, Future[Frame]] | None:
        """Take the next item when there is room for it; None at the end."""
        with self._taking:
            with self._changed:
                self._changed.wait_for(self._may_go_on)
                if self._ended:
                    return None
            future: Future[Frame] = Future()
            try:
                item = next(self._items, None)
            except BaseException as error:
                item, name = None, ""
                future.set_exception(error)
            else:
                name = item.name if item is not None else ""
            with self._changed:
                if item is not None or future.done():
                    self._waiting.append((name, future))
                self._ended = self._ended or item is None
                self._changed.notify_all()
            return None if item is None else (item, future)

    def _may_go_on(self) -> bool:
        return self._ended or (len(self._waiting) < HELD_IMAGES and self._held < HELD_BYTES)


class Writer:
    """Writes results to sinks, in order, in a thread of its own, which also closes them.

    At the end of the `with` block, also after an exception or a signal, all results that were put are written. An
    exception of a sink ends writing, and is raised by `put` or at the end of the block.
    """

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = sinks
        self._changed = threading.Condition()
        """Guards the fields below."""
        self._waiting: deque[Results] = deque()
        self._held = 0
        self._ended = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="cledet-write", daemon=True)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def put(self, result: Results) -> None:
        """Hand on a result, and wait while too many are unwritten. Raises the exception of a sink."""
        with self._changed:
            self._changed.wait_for(self._has_room)
            if self._error is not None:
                raise self._error
            self._waiting.append(result)
            self._held += result.image.nbytes
            self._changed.notify_all()

    def _has_room(self) -> bool:
        return self._error is not None or (len(self._waiting) < HELD_IMAGES and self._held < HELD_BYTES)

    def _work(self) -> None:
        try:
            while (result := self._next()) is not None:
                for sink in self._sinks:
                    sink.write(result)
        except BaseException as error:
            self._fail(error)
        for sink in self._sinks:
            try:
                sink.close()
            except BaseException as error:
                self._fail(error)

    def _next(self) -> Results | None:
        """Wait for the next result; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended)
            if not self._waiting:
                return None
            result = self._waiting.popleft()
            self._held -= result.image.nbytes
            self._changed.notify_all()
            return result

    def _fail(self, error: BaseException) -> None:
        """Keep the first exception, for the thread that puts results."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()
