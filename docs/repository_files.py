"""Hook of MkDocs: make links from pages to files of the repository work on the site.

A page may link to `../cledet/metrics/bootstrap.py`, as Git hosts resolve it. The site gets a copy of each such file as
a page in `repository/`, and the link leads there. A link to a missing file stays as it is, so that `--strict` reports
it. PAGES are in the navigation.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md")
LINK = re.compile(r"(?<=\]\()(?P<path>[\w./-]+\.\w+|\.\./(?:LICENSE|Dockerfile))(?P<anchor>#[\w-]+)?(?=\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from the root, and the files that any page links to."""
    for name in PAGES:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    for page in [file for file in files if file.src_uri.endswith(".md")]:
        for link in LINK.finditer(Path(page.abs_src_path).read_text()):
            target = find(page.src_uri, link["path"])
            if target and files.get_file_from_path(address(target)) is None:
                files.append(File.generated(config, address(target), content=as_page(target)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace links to files of the repository by links to their pages."""

    def replace(link: re.Match[str]) -> str:
        target = find(page.file.src_uri, link["path"])
        if not target:
            return link[0]
        return get_relative_url(address(target), page.file.src_uri) + (link["anchor"] or "")

    return LINK.sub(replace, markdown)


def find(page: str, link: str) -> PurePosixPath | None:
    """Return the file of the repository, relative to its root, that a page links to; None if it is a page itself."""
    folder = ROOT if page in PAGES else ROOT / "docs" / PurePosixPath(page).parent
    path = (folder / link).resolve()
    if page.startswith("repository/") or not path.is_file() or not path.is_relative_to(ROOT):
        return None
    target = PurePosixPath(path.relative_to(ROOT).as_posix())
    return target if page in PAGES or target.parts[0] != "docs" else None


def address(target: PurePosixPath) -> str:
    """Return the path on the site: docs/ is its root, and other files are pages in repository/."""
    if str(target) in PAGES:
        return str(target)
    return "/".join(target.parts[1:]) if target.parts[0] == "docs" else f"repository/{target}.md"


def as_page(target: PurePosixPath) -> str:
    """Show a file of the repository as a code block, left out of the search."""
    text = (ROOT / target).read_text()
    fence = "~" * 8
    return f"---\nsearch:\n  exclude: true\n---\n\n# {target}\n\n{fence}{target.suffix}\n{text}\n{fence}\n"
