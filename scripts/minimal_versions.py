#!/usr/bin/env python
"""Install the lower bounds of pyproject.toml in an environment of their own and test with them.

PyPI's builds of torch bring gigabytes of CUDA libraries: there has to be room for them.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = ("hub", "builtin", "compare")
TOOLS = ("pytest", "pytest-timeout", "hypothesis")
TESTS = ("artifacts", "backbones", "data", "training", *(f.name for f in ROOT.glob("tests/test_*")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="keep the environment here, and use it again")
    parser.add_argument("tests", nargs="*", help="arguments for pytest instead of most tests")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="minimal-") as temporary:
        folder = arguments.folder or Path(temporary)
        python = folder / "bin" / "python"
        if not python.exists():
            venv.create(folder, with_pip=True)
        command = [python, "-m", "pip", "install", "--quiet", "--editable", ROOT, *lower_bounds()]
        subprocess.run(command, check=True)
        tests = arguments.tests or ["-m", "not slow", *(f"tests/{name}" for name in TESTS)]
        # Of what newer releases of other libraries took away.
        tests = ["-W", "ignore::DeprecationWarning", *tests]
        environment = os.environ | {"HF_HUB_OFFLINE": "1"}
        done = subprocess.run([python, "-m", "pytest", "-q", *tests], cwd=ROOT, env=environment)
    raise SystemExit(done.returncode)


def lower_bounds() -> list[str]:
    """`name==version` of every requirement that has a lower bound and that the tests use."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    tools = [line for line in extras["dev"] if re.split(r"[^\w-]", line)[0] in TOOLS]
    wanted = [*project["dependencies"], *(line for name in EXTRAS for line in extras[name]), *tools]
    return [re.sub(r">=([^,]*).*", r"==\1", line) for line in wanted]


if __name__ == "__main__":
    main()
