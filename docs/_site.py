"""MkDocs hooks: make pages that are written for GitHub into pages of a site.

On GitHub a link leads to a file of the repository, and HTML comments hide what only the tests run. On the site a link
leads to a page, or to the repository for a file that is no page, and comments are left out.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# Documents outside of docs, and the names of their pages.
OUTSIDE = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "README.md": "index.md"}

_FENCE_OR_COMMENT = re.compile(r"^(?P<fence>```.*?^```$)|^<!--.*?-->$\n?", re.MULTILINE | re.DOTALL)
_FENCE_OR_LINK = re.compile(r"^```.*?^```$|\]\((?P<target>[^)\s]+)\)", re.MULTILINE | re.DOTALL)
_CODE_WITH_PIPE = re.compile(r"`[^`\n]*\\\|[^`\n]*`")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents that lie outside of ``docs``."""
    for name, page in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leave out comments and lead each link to a page, or to the repository."""
    here = page.file.src_uri
    document = _document_of(here)

    def linked(found: re.Match[str]) -> str:
        target = found["target"]
        if target is None or re.match(r"[a-z]+:|#", target):
            return found[0]
        path, _, anchor = target.partition("#")
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(document), path))
        site_path = _page_of(wanted)
        if files.get_file_from_path(site_path):
            address = posixpath.relpath(site_path, posixpath.dirname(here) or ".")
        else:
            address = f"{config.repo_url}/blob/main/{wanted}"
        return f"]({address}{'#' + anchor if anchor else ''})"

    shown = _FENCE_OR_COMMENT.sub(lambda found: found["fence"] or "", markdown)
    shown = _CODE_WITH_PIPE.sub(lambda code: code[0].replace("\\|", "|"), shown)
    return _FENCE_OR_LINK.sub(linked, shown)


def _document_of(page: str) -> str:
    """The path in the repository of a page's source."""
    outside = {shown: name for name, shown in OUTSIDE.items()}
    return outside.get(page, f"docs/{page}")


def _page_of(document: str) -> str:
    """The path on the site of a file of the repository, if it is on it at all."""
    return OUTSIDE.get(document, document.removeprefix("docs/"))
