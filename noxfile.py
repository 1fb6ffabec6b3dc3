"""The tests against old and new releases of LlamaIndex and pydantic: `make test-matrix`.

`nox` runs the tests of the adapter for LlamaIndex on every pair, `nox -- tests` all tests.
"""

import functools
import pathlib
import shutil
import subprocess
import sys

import nox

nox.options.default_venv_backend = "venv"
nox.options.envdir = "target/nox"
nox.options.error_on_missing_interpreters = True

# The oldest that is promised to work, one in between, and the newest: None, whatever the index has.
LLAMA_INDEX_CORE = ["0.14.16", "0.14.20", None]
# 2.14 is where LlamaIndex's own chat store can no longer be serialised.
PYDANTIC = ["2.13", "2.14"]

WHEEL = pathlib.Path("target/nox/wheel")
PYPROJECT = nox.project.load_toml("pyproject.toml")


@functools.cache
def wheel() -> pathlib.Path:
    """Build the wheel, once for all sessions."""
    shutil.rmtree(WHEEL, ignore_errors=True)
    command = [sys.executable, "-m", "maturin", "build", "--release", "--locked", "--quiet", "--out", str(WHEEL)]
    subprocess.run(command, check=True)
    (built,) = WHEEL.glob("*.whl")
    return built


@nox.session
@nox.parametrize("pydantic", PYDANTIC, ids=[f"pydantic-{version}" for version in PYDANTIC])
@nox.parametrize("core", LLAMA_INDEX_CORE, ids=[version or "newest" for version in LLAMA_INDEX_CORE])
def llama_index(session: nox.Session, core: str | None, pydantic: str) -> None:
    """Run the tests with the wheel and one pair of releases."""
    packages = nox.project.dependency_groups(PYPROJECT, "test", "bench")
    session.install(
        "--upgrade",
        f"{wheel()}[cli,llama-index]",
        *(package for package in packages if not package.startswith("llama-index-core")),
        f"llama-index-core=={core}" if core else "llama-index-core",
        f"pydantic=={pydantic}.*",
    )
    # pip keeps what has the same version: in an environment that is used again, the wheel of the run before.
    session.install("--force-reinstall", "--no-deps", str(wheel()))
    session.run("python", "-m", "pytest", *(session.posargs or ["tests/llama_index"]))
