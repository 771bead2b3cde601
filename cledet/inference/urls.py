"""Images at URLs."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import PurePosixPath
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote
from urllib.request import Request, urlopen

from cledet.data.images import IMAGE_SUFFIXES, Pixels, decode_image
from cledet.errors import UserError

TIMEOUT = 30.0
"""Seconds without data after which a connection counts as lost."""
MAX_BYTES = 1 << 28
"""Largest file of an image that is fetched; Pillow's limit of pixels is below it in any compressed format."""
_STREAMED = re.compile(r"video/|multipart/|application/(vnd\.apple\.mpegurl|x-mpegurl|dash\+xml)", re.IGNORECASE)
"""Content types of videos and camera streams."""


def is_url(text: str) -> bool:
    """Return whether a source is a URL, of any scheme."""
    return re.match(r"[a-z][a-z0-9+.-]+://", text, re.IGNORECASE) is not None


def shown_url(url: str) -> str:
    """Return a URL without the user name and password in it."""
    return re.sub("://[^/]*@", "://", url)


def url_suffix(url: str) -> str:
    """Return the suffix of a URL's path in lower case, as ".jpg"; empty without one."""
    path = re.split("[?#]", url.partition("://")[2], maxsplit=1)[0].partition("/")[2]
    return PurePosixPath(path).suffix.lower()


def is_image_url(text: str) -> bool:
    """Return whether a URL names an image by scheme and suffix."""
    return is_web_url(text) and url_suffix(text) in IMAGE_SUFFIXES


def is_web_url(text: str) -> bool:
    """Return whether a source is an http or https URL."""
    return re.match("https?://", text, re.IGNORECASE) is not None


def is_streamed(url: str) -> bool:
    """Ask the server whether a URL is a video or stream, by its content type.

    Raises UserError if the URL cannot be fetched.
    """
    with _connection(url) as response:
        return _STREAMED.match(response.headers.get("Content-Type", "")) is not None


def read_url(url: str) -> Pixels:
    """Fetch and decode one image, RGB [H, W, 3]. Raises UserError if it cannot be fetched or decoded."""
    with _connection(url) as response:
        data = response.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise UserError(f"{shown_url(url)} has more than {MAX_BYTES >> 20} MB", "download it and pass the file")
    return decode_image(data, shown_url(url))


@contextmanager
def _connection(url: str) -> Iterator[HTTPResponse]:
    """Connect to a URL; failures within the block are UserErrors."""
    shown = shown_url(url)
    try:
        request = Request(quote(shown, safe="%/:=&?~#+!$,;'@()*[]"), headers={"User-Agent": "cledet"})
        if login := re.match("https?://([^/]*)@", url, re.IGNORECASE):
            token = b64encode(unquote(login[1]).encode()).decode()
            request.add_unredirected_header("Authorization", f"Basic {token}")  # not sent to another server
        with urlopen(request, timeout=TIMEOUT) as response:
            yield response
    except HTTPError as error:
        raise UserError(f"{shown} could not be fetched: the server answered {error.code} {error.reason}") from None
    except URLError as error:
        reason = getattr(error.reason, "strerror", None) or error.reason  # an OSError, or text
        raise UserError(f"{shown} could not be fetched: {reason}") from None
    except (OSError, HTTPException, ValueError) as error:
        raise UserError(f"{shown} could not be fetched: {error or type(error).__name__}") from None
