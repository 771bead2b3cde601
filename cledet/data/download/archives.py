"""Downloadable data sets: the archives in a YAML file, and the folders they are extracted to."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from cledet.data.formats.data_yaml import SPLITS, first_error, load_datafile
from cledet.data.formats.paths import absolute, cache_folder, invalid_path_reason
from cledet.data.formats.voc import list_file
from cledet.errors import UserError, nearest

SETS = Path(__file__).parents[1] / "sets"
"""The folder of the shipped YAML files."""
SHIPPED = tuple(sorted(file.stem for file in SETS.glob("*.yaml")))
KINDS = r"\.(zip|tar|tar\.gz|tgz|tar\.bz2|tar\.xz)$"


class Archive(BaseModel):
    """One file to download and extract."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    url: str
    bytes: int = Field(gt=0)
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    md5: str | None = Field(default=None, pattern="^[0-9a-f]{32}$")
    folder: str = "."
    """The folder it is extracted to, relative to the data set's root."""

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or not re.fullmatch("[!-~]+", url):
            raise ValueError("it must begin with https:// or http://, name a host, and encode blanks as %20")
        if not re.search(r"^[^/\\:]+" + KINDS, _file_name(url)):
            raise ValueError("it must end in .zip, .tar, .tar.gz, .tgz, .tar.bz2 or .tar.xz")
        return url

    @field_validator("folder")
    @classmethod
    def _check_folder(cls, folder: str) -> str:
        if reason := invalid_path_reason(folder):
            raise ValueError(reason)
        return folder

    @model_validator(mode="after")
    def _check_digest(self) -> Archive:
        if self.sha256 is None and self.md5 is None:
            raise ValueError("it has no digest; add sha256: (`sha256sum FILE` prints it) or md5:")
        return self

    @property
    def name(self) -> str:
        """Return the file name of the URL."""
        return _file_name(self.url)

    @property
    def digest(self) -> tuple[str, str]:
        """Return the kind of the expected digest and its value."""
        return ("sha256", self.sha256) if self.sha256 is not None else ("md5", str(self.md5))


@dataclass(frozen=True, slots=True)
class DataSet:
    """A downloadable data set: `archives` are extracted under `root`, after which every path in `wanted` exists."""

    name: str
    file: Path
    """The YAML file."""
    home: Path
    """The folder that the YAML's `path` is relative to; the user may place archives here."""
    root: Path
    archives: tuple[Archive, ...]
    wanted: tuple[Path, ...]
    copy: Path | None = None
    """Path of the YAML's copy beside a data set that is downloaded to a folder of the user's choice."""

    @property
    def top(self) -> Path:
        """Return the common parent folder of everything extracted."""
        return Path(os.path.commonpath([self.root, *map(self.target, self.archives)]))

    @property
    def work(self) -> Path:
        """Return the folder of an unfinished download, on the same file system as its destination."""
        return self.top / f"{self.name}.part"

    @property
    def complete(self) -> bool:
        """Return whether all files and folders of the splits exist."""
        return all(os.path.exists(path) for path in self.wanted)

    def to_dict(self) -> dict[str, Any]:
        """Return the data set as plain values, for JSON."""
        return {
            "name": self.name,
            "folder": str(self.root),
            "bytes": sum(archive.bytes for archive in self.archives),
            "state": "begun" if self.work.exists() else "there" if self.complete else "not there",
            "archives": [archive.model_dump(exclude_none=True) for archive in self.archives],
            "yaml": str(self.copy or self.file),
        }

    def target(self, archive: Archive) -> Path:
        """Return the folder an archive is extracted to."""
        return absolute(self.root / archive.folder)


def open_set(name: str, to: Path | None = None) -> DataSet:
    """Open a shipped data set by name, or the data set of a YAML file; its root is in the folder `to`.

    Without `to`, shipped sets are in the cache, others at the path in their YAML. Raises UserError for an unknown name
    and for a YAML without archives or splits, or with a folder outside its own.
    """
    file, home = _find_yaml(name)
    content = load_datafile(file)
    if to is not None:
        home = absolute(to)
    root = absolute(home / os.path.expanduser(str(content.get("path", "."))))
    if to is not None and not root.is_relative_to(home):
        raise UserError(f"{file}: 'path' leads out of its folder, so --to cannot move it", "leave --to out")
    archives = () if file == SETS / "shapes.yaml" else _archives(file, content)  # shapes are drawn
    for archive in archives:
        if not absolute(root / archive.folder).is_relative_to(home if root.is_relative_to(home) else root):
            raise UserError(f"{file}: {archive.name} would be unpacked to '{archive.folder}', outside its folder")
    wanted = tuple(path for path in _wanted(content, root) if path != root)
    if not wanted:
        raise UserError(f"{file} names no split", "add train:, val: or test:")
    copy = None if to is None else home / f"{file.stem}.yaml"
    return DataSet(file.stem, file, home, root, archives, wanted, copy)


def _find_yaml(name: str) -> tuple[Path, Path]:
    """Return the YAML file of a data set, and the folder that its `path` is relative to."""
    path = absolute(Path(name))
    if name not in SHIPPED and os.path.isfile(path):
        return path, path.parent
    stem = name.removesuffix(".yaml")
    if stem not in SHIPPED:
        raise UserError(f"{name} is neither a YAML file nor a shipped data set", nearest(Path(stem).name, SHIPPED))
    return SETS / f"{stem}.yaml", absolute(cache_folder())


def _archives(file: Path, content: dict[str, Any]) -> tuple[Archive, ...]:
    listed = content.get("archives")
    if not listed:
        raise UserError(f"{file} names nothing to download", "add archives: with the url, bytes and sha256 of each")
    try:
        archives = TypeAdapter(tuple[Archive, ...]).validate_python(listed)
    except ValidationError as error:
        raise first_error(file, error, (), Archive.model_fields, "archives") from error
    names = [archive.name for archive in archives]
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise UserError(f"{file} names two archives {repeated[0]}")
    return archives


def _wanted(content: dict[str, Any], root: Path) -> list[Path]:
    """Return the files and folders of the splits: COCO's, VOC's lists, or the paths themselves, as in YOLO's files."""
    paths: list[Path] = []
    for split in (content[name] for name in (*SPLITS, "valid", "validation") if content.get(name)):
        if isinstance(split, dict):
            paths += [absolute(root / str(split[key])) for key in ("images", "annotations") if key in split]
        elif isinstance(split, str | list):
            entries = [str(entry) for entry in ([split] if isinstance(split, str) else split)]
            lists = "nc" not in content and all(map(_is_list, entries))
            voc = content.get("format", "voc" if lists else "") == "voc"
            paths += [absolute(list_file(root, entry)) if voc else _extracted_path(root, entry) for entry in entries]
    return list(dict.fromkeys(paths))


def _is_list(entry: str) -> bool:
    """Return whether a split's entry may be a VOC list: trainval, or VOC2007/trainval."""
    return re.fullmatch(r"(VOC\d+/)?[^/\\.]+", entry) is not None


def _extracted_path(root: Path, entry: str) -> Path:
    """Return the path of a split's entry once it is extracted; Roboflow writes ../train/images for train/images."""
    path = absolute(root / entry.replace("\\", "/"))
    return path if os.path.exists(path) else absolute(root / entry.replace("\\", "/").removeprefix("../"))


def _file_name(url: str) -> str:
    return unquote(urlsplit(url).path).rpartition("/")[2]
