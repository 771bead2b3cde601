"""What annotations say that nothing could be trained on: counted by kind, with a few examples."""

from __future__ import annotations

from dataclasses import dataclass, field

EXAMPLES = 5
LONGEST_EXAMPLE = 300


@dataclass(frozen=True, slots=True)
class Fault:
    """Entries of one kind; they are left out of the index's columns."""

    kind: str
    """A key of FAULTS."""
    count: int
    examples: tuple[str, ...]
    """Where the first few are and what they say."""

    @property
    def text(self) -> str:
        """The fault in a sentence."""
        return f"{self.count} {FAULTS[self.kind]}, the first: {self.examples[0]}"


@dataclass(slots=True)
class Faults:
    """Collects faults while annotations are read."""

    _found: dict[str, list[str]] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)

    def add(self, kind: str, example: str) -> None:
        """One more of a kind of FAULTS."""
        if self.wants(kind):
            self._found.setdefault(kind, []).append(example[:LONGEST_EXAMPLE])
        self._counts[kind] = self._counts.get(kind, 0) + 1

    def wants(self, kind: str) -> bool:
        """Whether the next one of a kind will be an example."""
        return self._counts.get(kind, 0) < EXAMPLES

    def all(self) -> tuple[Fault, ...]:
        """Those found, in the order in which their kinds first came up."""
        return tuple(Fault(kind, self._counts[kind], tuple(examples)) for kind, examples in self._found.items())


FAULTS = {
    "annotation": "annotation files cannot be read",
    "image": "images cannot be read",
    "entry": "entries are not as the format wants them",
    "box": "boxes are not four numbers",
    "class": "boxes are of an unknown class",
    "outside": "images lie outside of the data set's folder",
}
"""The kinds of faults, and how a sentence that begins with their count goes on."""
