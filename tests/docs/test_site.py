"""The documents work as a site, and the README on a package index."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tomllib
import zlib
from pathlib import Path
from typing import Any

import pytest
from unit.test_public_names import NEED_PYTHON_3_12, PUBLIC_MODULES

from documents import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SOURCE: str = PROJECT["project"]["urls"]["Source"]
FOR_MIGRATIONS = [
    f"agent_persistence.models.{name}" for name in ("ExactJSON", "HasIdTypes", "RoleType", "config_table")
]
BUILD = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, with every link and anchor checked."""
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run([*BUILD, "--site-dir", folder], cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


def documented(site: Path) -> set[str]:
    """The names that the site describes, from the inventory for other projects' links."""
    packed = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    return {line.split(" ", 1)[0] for line in zlib.decompress(packed).decode().splitlines()}


def places(module: str, name: str) -> set[str]:
    """The names under which the site may describe an object: the public one, and the one of its definition."""
    found = getattr(importlib.import_module(module), name)
    return {f"{module}.{name}", f"{getattr(found, '__module__', module)}.{name}"}


@pytest.mark.slow
def test_the_site_describes_every_public_name(site: Path) -> None:
    shown = documented(site)

    missing = [
        f"{module}.{name}"
        for module in PUBLIC_MODULES
        for name in getattr(importlib.import_module(module), "__all__", [])
        if not places(module, name) & shown
    ]

    assert sorted(missing) == sorted(FOR_MIGRATIONS)


@pytest.mark.slow
@pytest.mark.parametrize("module", [*PUBLIC_MODULES, *NEED_PYTHON_3_12])
def test_the_site_describes_every_public_module(module: str, site: Path) -> None:
    assert any(f"{name}.".startswith(f"{module}.") for name in documented(site))


@pytest.mark.slow
def test_the_site_leads_to_the_repository_for_files_that_are_no_pages(site: Path) -> None:
    page = (site / "howto" / "fastapi" / "index.html").read_text(encoding="utf-8")

    assert f'href="{SOURCE}/blob/main/examples/fastapi_chat/README.md"' in page


@pytest.mark.slow
def test_the_site_shows_no_code_that_is_hidden_on_github(site: Path) -> None:
    page = (site / "howto" / "fastapi" / "index.html").read_text(encoding="utf-8")

    assert "lost = await client" in (ROOT / "docs" / "howto" / "fastapi.md").read_text(encoding="utf-8")
    assert "lost = await client" not in re.sub("<[^>]+>", "", page)


def test_the_readme_of_a_package_index_has_no_relative_link() -> None:
    core = pytest.importorskip("hatchling.metadata.core")
    manager = pytest.importorskip("hatchling.plugin.manager").PluginManager()

    shown = core.ProjectMetadata(str(ROOT), manager).core.readme

    links = re.findall(r"\]\(([^)\s]+)\)", re.sub("^```.*?^```$", "", shown, flags=re.MULTILINE | re.DOTALL))
    pictures = [link for link in links if link.endswith((".png", ".svg"))]
    assert len(links) > 20
    assert [link for link in links if not re.match("https?:|#", link)] == []
    assert pictures == [link for link in pictures if link.startswith(f"{SOURCE}/raw/main/docs/images/")] != []


def test_the_site_and_the_package_name_the_same_addresses() -> None:
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")

    assert f"repo_url: {SOURCE}\n" in site
    assert f"site_url: {PROJECT['project']['urls']['Documentation']}\n" in site
