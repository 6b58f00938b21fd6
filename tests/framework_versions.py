"""Test the adapter of each framework with the lowest and the newest versions that its extra allows.

python tests/framework_versions.py [openai-agents ...]

Each pair has a virtualenv of its own in .venv-frameworks, with no other framework in it.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
FOLDER: Final = ROOT / ".venv-frameworks"
TESTS: Final = {
    "claude-agent-sdk": ("integrations/claude_agent", "unit/forms/test_claude_form.py"),
    "google-adk": ("integrations/google_adk", "unit/forms/test_adk_form.py"),
    "langgraph": ("integrations/langgraph", "unit/forms/test_langgraph_form.py"),
    "openai-agents": ("integrations/openai_agents", "unit/forms/test_openai_form.py"),
    "pydantic-ai": ("integrations/pydantic_conversations", "unit/forms/test_pydantic_form.py"),
}
"""Where the tests of an extra are."""
BOUNDS: Final = ("lowest", "newest")


def main(extras: list[str]) -> int:
    """Run them all, and say which failed."""
    if unknown := {*extras} - {*TESTS}:
        sys.exit(f"no extra is called {', '.join(sorted(unknown))}; there are: {', '.join(TESTS)}")
    runs = [(extra, bound) for extra in extras or TESTS for bound in BOUNDS]
    results = {run: test(*run) for run in runs}
    for (extra, bound), (versions, passed) in results.items():
        print(f"{extra:<18}{bound:<8}{'passed' if passed else 'FAILED':<8}{versions}")
    return 0 if all(passed for _, passed in results.values()) else 1


def test(extra: str, bound: str) -> tuple[str, bool]:
    """Run the tests of an extra with one bound of its versions; return these, and whether the tests passed."""
    python = FOLDER / f"{extra}-{bound}" / "bin" / "python"
    lowest = lowest_of(extra)
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", python.parent.parent], check=True)
    chosen = [f"{name}=={version}" for name, version in lowest.items()] if bound == "lowest" else [*lowest]
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wanted = f".[cli,embedded,fastapi,{extra},test]"
    subprocess.run([*pip, "install", "--upgrade", "--editable", wanted, *chosen], cwd=ROOT, check=True)
    shown = [f"{name} {installed(python, name)}" for name in lowest]
    print(f"== {extra}, {bound}: {', '.join(shown)}", flush=True)
    tests = [f"tests/{place}" for place in TESTS[extra]]
    run = subprocess.run([python, "-m", "pytest", "--quiet", *tests], cwd=ROOT, check=False)
    return ", ".join(shown), run.returncode == 0


def lowest_of(extra: str) -> dict[str, str]:
    """Return the packages of an extra, and the lowest version of each."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = (re.match(r"([\w.-]+)(?:\[\w+\])?>=([\w.]+)", one) for one in project["optional-dependencies"][extra])
    return {match[1]: match[2] for match in found if match is not None}


def installed(python: Path, package: str) -> str:
    """Return the version of a package in a virtualenv."""
    code = f"import importlib.metadata; print(importlib.metadata.version({package!r}))"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
