"""Invalid annotations, counted by kind, with a few examples."""

from __future__ import annotations

from dataclasses import dataclass, field

EXAMPLES = 5
LONGEST_EXAMPLE = 300


@dataclass(frozen=True, slots=True)
class AnnotationError:
    """Invalid annotations of one kind; the index's columns do not contain them."""

    kind: str
    """A key of ERROR_KINDS."""
    count: int
    examples: tuple[str, ...]
    """Location and content of the first few."""

    @property
    def text(self) -> str:
        """Return a sentence with the count and the first example."""
        return f"{self.count} {ERROR_KINDS[self.kind]}, the first: {self.examples[0]}"


@dataclass(slots=True)
class ErrorLog:
    """Collector of annotation errors while files are read."""

    _examples: dict[str, list[str]] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)

    def add(self, kind: str, example: str) -> None:
        """Count one invalid annotation of a kind of ERROR_KINDS."""
        if self.needs_example(kind):
            self._examples.setdefault(kind, []).append(example[:LONGEST_EXAMPLE])
        self._counts[kind] = self._counts.get(kind, 0) + 1

    def needs_example(self, kind: str) -> bool:
        """Return whether the next error of a kind is kept as an example."""
        return self._counts.get(kind, 0) < EXAMPLES

    def records(self) -> tuple[AnnotationError, ...]:
        """Return one record per kind, in order of first occurrence."""
        return tuple(AnnotationError(kind, self._counts[kind], tuple(kept)) for kind, kept in self._examples.items())


ERROR_KINDS = {
    "annotation": "annotation files cannot be read",
    "image": "images cannot be read",
    "entry": "entries do not match the format",
    "box": "boxes are not four numbers",
    "class": "boxes are of an unknown class",
    "outside": "images lie outside the data set's folder",
}
"""Kinds of annotation errors, each with the text that follows its count in a sentence."""
