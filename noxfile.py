"""The tests on every Python, and on old and new releases of what they need: `make test-matrix`.

`nox` runs all sessions, `nox --session python-3.12` one of them. What follows `--` replaces the tests that a session
runs.
"""

import functools
import os
import pathlib
import shutil
import subprocess
import sys

import nox
from packaging.requirements import Requirement

nox.options.default_venv_backend = "venv"
nox.options.envdir = "target/nox"
# A Python that is not there is skipped, and nox says so, also where CI is set.
nox.options.error_on_missing_interpreters = False

if shutil.which("pyenv"):  # `python3.12` is on the PATH then, but runs only if its version is chosen
    versions = subprocess.run(["pyenv", "versions", "--bare"], capture_output=True, text=True, check=True).stdout
    os.environ["PYENV_VERSION"] = ":".join(versions.split())

PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]

# The oldest that is promised to work, one in between, and the newest: None, whatever the index has.
LLAMA_INDEX_CORE = ["0.14.16", "0.14.20", None]
# 2.14 is where LlamaIndex's own chat store can no longer be serialised.
PYDANTIC = ["2.13", "2.14"]

WHEEL = pathlib.Path("target/nox/wheel")
PYPROJECT = nox.project.load_toml("pyproject.toml")


@functools.cache
def wheel(python: str | None = None) -> pathlib.Path:
    """Build the wheel for a Python, once for all sessions; None is the one that runs nox."""
    folder = WHEEL / (python or "own")
    shutil.rmtree(folder, ignore_errors=True)
    interpreter = f"python{python}" if python else sys.executable
    options = ["--release", "--locked", "--quiet", "--interpreter", interpreter, "--out", str(folder)]
    subprocess.run([sys.executable, "-m", "maturin", "build", *options], check=True)
    (built,) = folder.glob("*.whl")
    return built


# Tests that take no servers and little time: those of the fast profile. The adapters that have a session of their own
# skip themselves here, for their frameworks are not installed.
FAST = ["--numprocesses=logical", "--maxprocesses=4", "--dist=worksteal", "-r", "fE"]
EXTRAS = ["cli", "postgresql", "redis", "llama-index"]


def bounds(*requirements: str) -> dict[str, str]:
    """Return the lower bound of each requirement, as a requirement: `redis>=5.3` is `redis==5.3`."""
    oldest = {}
    for requirement in map(Requirement, requirements):
        (bound,) = (one.version for one in requirement.specifier if one.operator == ">=")
        if requirement.marker is None or requirement.marker.evaluate({"python_version": PYTHONS[0]}):
            extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
            oldest[requirement.name] = f"{requirement.name}{extras}=={bound}"
    return oldest


@nox.session(python=PYTHONS)
def python(session: nox.Session) -> None:
    """Run the fast tests on a Python, with the newest releases of everything."""
    built = wheel(str(session.python))
    test = nox.project.dependency_groups(PYPROJECT, "test")
    session.install("--upgrade", f"{built}[{','.join(EXTRAS)}]", *test)
    session.install("--force-reinstall", "--no-deps", str(built))
    session.run("python", "-m", "pytest", *FAST, *(session.posargs or ["tests"]), env={"HYPOTHESIS_PROFILE": "fast"})


@nox.session(python=PYTHONS[:1])
def oldest(session: nox.Session) -> None:
    """Run the fast tests on the oldest Python, with the oldest releases that pyproject.toml allows."""
    built = wheel(str(session.python))
    claimed = PYPROJECT["project"]["optional-dependencies"]
    packages = bounds(*(requirement for extra in EXTRAS for requirement in claimed[extra]))
    # The tests want a newer tiktoken, their oracle. The session `llama_index` has the oldest llama-index-core.
    packages |= bounds(*nox.project.dependency_groups(PYPROJECT, "test"))
    session.install(f"{built}[{','.join(EXTRAS)}]", *packages.values())
    session.install("--force-reinstall", "--no-deps", str(built))
    session.run("python", "-m", "pytest", *FAST, *(session.posargs or ["tests"]), env={"HYPOTHESIS_PROFILE": "fast"})


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


# By the folder of its tests, what each adapter needs: the oldest releases that are promised to work, and the newest.
ADAPTERS = {
    "agent_framework": {
        "oldest": ["agent-framework-core==1.19.0", "agent-framework-openai==1.14.4", "openai==2.54.0"],
        "newest": ["agent-framework-core", "agent-framework-openai"],
    },
    "autogen": {
        "oldest": ["autogen-core==0.7.1", "autogen-agentchat==0.7.1", "autogen-ext[openai]==0.7.1"],
        "newest": ["autogen-agentchat", "autogen-ext[openai]"],
    },
    "examples_sdk": {
        "oldest": ["openai==1.66.3", "anthropic==0.83.0", "google-genai==1.35.0"],
        "newest": ["openai", "anthropic", "google-genai", "litellm"],
    },
    "google_adk": {"oldest": ["google-adk==2.10.0"], "newest": ["google-adk"]},
    "langchain": {
        "oldest": ["langchain==1.1.0", "langchain-core==1.1.0", "langgraph==1.0.2", "langgraph-prebuilt==1.0.2"],
        "newest": ["langchain", "langgraph"],
    },
    "openai_agents": {
        "oldest": ["openai-agents==0.19.0", "openai==2.54.0"],
        "newest": ["openai-agents", "cryptography"],
    },
    "pydantic_ai": {
        "oldest": ["pydantic-ai-slim[openai,anthropic]==2.54.0", "anthropic==1.9.0"],
        "newest": ["pydantic-ai-slim[openai,anthropic]"],
    },
}


@nox.session
@nox.parametrize("age", ["oldest", "newest"])
@nox.parametrize("adapter", list(ADAPTERS))
def adapter(session: nox.Session, adapter: str, age: str) -> None:
    """Run an adapter's tests with the wheel and its framework alone, as its users have it."""
    packages = nox.project.dependency_groups(PYPROJECT, "test", "bench")
    # What the tests need besides.
    needed = ("hypothesis", "pytest", "pytest-benchmark", "pytest-timeout", "pytest-xdist", "tiktoken")
    own = [package for package in packages if package.split(">")[0] in needed]
    session.install("--upgrade", str(wheel()), *own, *ADAPTERS[adapter][age])
    session.install("--force-reinstall", "--no-deps", str(wheel()))
    session.run("python", "-m", "pytest", *(session.posargs or [f"tests/{adapter}"]))
