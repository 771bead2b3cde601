"""Weights on the Hugging Face Hub: safetensors files, fetched into the Hub's own cache, and uploaded."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cledet.console import say
from cledet.errors import UserError

PREFIX = "hf:"
FILE = "model.safetensors"
"""File of the weights in a repository."""
PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt")
TIMEOUT = 30.0
"""Seconds to wait for the description of a repository."""


class Unreachable(UserError):
    """A Hub that does not answer, or not as expected."""


def fetch_from_hub(name: str) -> Path:
    """Return the path of the safetensors file of hf:OWNER/REPO[@REVISION] in the Hub's cache, downloaded if missing.

    Without a connection, a cached file is taken. A pickle is never downloaded. Raises UserError for a repository that
    does not exist, or holds no safetensors file.
    """
    repo, _, revision = name.removeprefix(PREFIX).partition("@")
    hub, place = _hub(repo), {"revision": revision or None}
    try:
        with _errors(repo):
            info = hub.HfApi(endpoint=_endpoint()).model_info(repo, files_metadata=True, timeout=TIMEOUT, **place)
            sizes = {entry.rfilename: entry.size or 0 for entry in info.siblings or ()}
    except Unreachable as error:
        cached = hub.try_to_load_from_cache(repo, FILE, **place)
        if not isinstance(cached, str):
            raise
        say(f"{error.message}; the cached file is used")
        return Path(cached)
    file = _choose(name, sizes)
    if not isinstance(hub.try_to_load_from_cache(repo, file, **place), str):
        licence = getattr(info.card_data, "license", None) or "not stated"
        say(f"fetching {name} from {_endpoint()}/{repo} ({sizes[file] / 1e6:.0f} MB, licence: {licence})")
    with _errors(repo):
        return Path(hub.hf_hub_download(repo, file, endpoint=_endpoint(), **place))


def push(repo: str, files: Mapping[str, bytes], private: bool) -> str:
    """Upload files to the repository OWNER/REPO in one commit, and return its URL. Creates the repository if needed."""
    hub = _hub(repo)
    api = hub.HfApi(endpoint=_endpoint())
    operations = [hub.CommitOperationAdd(path, content) for path, content in files.items()]
    with _errors(repo):
        api.create_repo(repo, private=private, exist_ok=True)
        api.create_commit(repo, operations, commit_message="Upload a cledet detector")
    return f"{_endpoint()}/{repo}"


def _choose(name: str, sizes: Mapping[str, int]) -> str:
    """Choose the file of weights of a repository. Raises UserError if there is none, or more than one."""
    found = [file for file in sizes if file.endswith(".safetensors") and "/" not in file]
    if FILE in found or len(found) == 1:
        return FILE if FILE in found else found[0]
    if found:
        raise UserError(f"{name} holds {len(found)} safetensors files and no {FILE}", "download one: --weights FILE")
    pickle = next((file for file in sizes if file.endswith(PICKLES)), None)
    if pickle is not None:
        message = f"{name} holds a pickle ({pickle}), which can run code, and no safetensors file"
        raise UserError(message, "ask its owner for safetensors; `Detector.push_to_hub` writes them")
    raise UserError(f"{name} holds no weights", f"a repository of a detector holds {FILE}")


@contextmanager
def _errors(repo: str) -> Iterator[None]:
    """Raise UserErrors in place of the exceptions of the Hub's client."""
    errors, url = _hub(repo).errors, f"{_endpoint()}/{repo}"
    try:
        yield
    except errors.GatedRepoError:
        raise UserError(f"{url} is gated", "accept its terms there, and log in with `hf auth login`") from None
    except errors.RepositoryNotFoundError:
        hint = "check OWNER/REPO, or log in with `hf auth login`"
        raise UserError(f"{url} does not exist or is private", hint) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{url} has no such revision", "name a branch, a tag or a commit after the @") from None
    except Exception as error:  # versions of the client have exceptions of different HTTP libraries
        if getattr(getattr(error, "response", None), "status_code", None) in (401, 403):
            raise UserError(f"{url} does not allow this", "log in with `hf auth login`") from None
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise Unreachable(f"{url} could not be used: {reason}", "or pass a local file with --weights FILE") from None


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _hub(repo: str) -> Any:
    """Import the Hub's client. Raises UserError if it is not installed, or `repo` is not OWNER/REPO."""
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", repo):
        raise UserError(f"{repo!r} is no repository on the Hub", "write OWNER/REPO, and @REVISION after it if you wish")
    try:
        import huggingface_hub
    except ImportError:
        raise UserError("huggingface_hub is not installed", "pip install 'cledet[hub]'") from None
    return huggingface_hub
