"""The starts of a group's processes on this node: where they write, what they are told, what they left."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousHandler

from cledet.console import warn
from cledet.distributed.devices import cores
from cledet.distributed.failure_report import Failure, deliberate, extra_of
from cledet.distributed.rendezvous import Meeting, Nodes
from cledet.errors import Interrupted

LINES = 30
"""Of a process's stderr that are shown if it left nothing else."""


class Starts(LogsSpecs):
    """Each start of the processes: their files and environment, and what they left. Torch calls `reify` before each."""

    def __init__(self, folder: Path, nodes: Nodes, max_restarts: int) -> None:
        super().__init__(str(folder))
        self.folder, self.nodes, self.max_restarts = folder, nodes, max_restarts
        self.count = 0
        self.world = 0
        self.stems: dict[int, Path] = {}  # by local rank
        self.meeting: Meeting | None = None

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self.meeting is not None:
            self.meeting.tell_end()

    def meet(self, handler: RendezvousHandler) -> Meeting:
        """Take the rendezvous that torch made."""
        self.meeting = Meeting(handler, self.nodes, self._again)
        return self.meeting

    @property
    def root_log_dir(self) -> str:
        """The folder of the processes' files."""
        return str(self.folder)

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """Where the processes' output goes; adds to their environments."""
        suffix = f"-start{self.count + 1}" if self.count else ""
        for local, env in envs.items():
            self.world = int(env["WORLD_SIZE"])
            self.stems[local] = self.folder / f"rank{env['RANK']}{suffix}"
            env["MASTER_ADDR"] = self.nodes.host.strip("[]")
            env["TORCHELASTIC_ERROR_FILE"] = str(self._file(local, "json"))
            env["TORCHELASTIC_RESTART_COUNT"] = str(self.count)  # torch counts no start that another node asked for
            env["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores() // len(envs)))
        self.count += 1
        return LogsDest(
            stdouts={local: str(self._file(local, "out")) for local in envs},
            stderrs={local: str(self._file(local, "err")) if local else "" for local in envs},
            error_files={local: str(self._file(local, "json")) for local in envs},
        )

    def _file(self, local: int, kind: str) -> Path:
        return self.stems[local].with_suffix(f".{kind}")

    def _records(self) -> list[dict[str, Any]]:
        """What the processes of the last start left, by rank."""
        files = [self._file(local, "json") for local in sorted(self.stems)]
        return [extra_of(json.loads(file.read_text())) for file in files if file.is_file()]

    def _again(self) -> None:
        """Say why there is another start; raise where it would end as the last one did."""
        records = self._records()
        mistakes = [record for record in records if "mistake" in record]
        ended = deliberate(mistakes) or self.interrupted()
        if ended is not None:
            raise ended
        crashes = [record for record in records if "interrupted" not in record and "lost" not in record]
        trace = min(crashes, key=lambda record: record["moment"])["py_callstack"].rstrip() if crashes else ""
        lines = trace.rstrip().split("\n") if trace.strip() else []
        warn(f"a process failed; start {self.count + 1} of at most {self.max_restarts + 1}", *lines)

    def interrupted(self) -> Interrupted | None:
        """The interruption that ended all processes of the last start, if one did."""
        records = self._records()
        ended = deliberate(records) if len(records) == len(self.stems) else None
        return ended if isinstance(ended, Interrupted) else None

    def failures(self, failed: ChildFailedError) -> list[Failure]:
        """What is known of each process that failed."""
        found = []
        for rank, failure in failed.failures.items():
            record = extra_of(failure.error_file_data)
            said = self._file(failure.local_rank, "err")
            found.append(
                Failure(
                    rank=rank,
                    exitcode=failure.exitcode,
                    moment=record.get("moment", float(failure.timestamp)),
                    record=record,
                    said="\n".join(said.read_text(errors="replace").splitlines()[-LINES:]) if said.is_file() else "",
                )
            )
        return found

    def interruption(self, number: signal.Signals) -> BaseException:
        """The exception of a signal to the launcher, which passed it on: a process that saved says how to go on."""
        for record in self._records():
            if record.get("interrupted"):
                return deliberate([record]) or Interrupted(number)
        return KeyboardInterrupt() if number == signal.SIGINT else Interrupted(number)
