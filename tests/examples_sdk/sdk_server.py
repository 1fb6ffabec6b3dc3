"""An example as its user runs it: copied, the fake's line deleted, in a process of its own."""

import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY")
ADDRESSES = ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "GOOGLE_GEMINI_BASE_URL")


def environment(url: str | None, key: str = "key") -> dict[str, str]:
    """Return the environment of a user with keys of the provider at an address, or of one without."""
    names = (*KEYS, *ADDRESSES, "GOOGLE_API_KEY", "OPENAI_API_BASE", "HTTP_PROXY", "http_proxy")
    clean = {name: value for name, value in os.environ.items() if name not in names}
    clean["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # LiteLLM looks for a newer one when it is imported
    if url is not None:
        clean |= dict.fromkeys(KEYS, key) | {"NO_PROXY": "127.0.0.1"}
        clean |= {"OPENAI_BASE_URL": f"{url}/v1", "ANTHROPIC_BASE_URL": url, "GOOGLE_GEMINI_BASE_URL": url}
    return clean


def copy_of(example: str, folder: Path, model: str | None = None) -> Path:
    """Copy an example without its fake, perhaps for another model."""
    text = (EXAMPLES / example).read_text(encoding="utf-8")
    kept = [line for line in text.splitlines(keepends=True) if "the fake: delete this line" not in line]
    assert len(kept) == len(text.splitlines()) - 1
    copy = folder / example
    copy.write_text("".join(kept).replace("openai/gpt-5.5", model or "openai/gpt-5.5"), encoding="utf-8")
    (folder / "chat_http.py").write_text((EXAMPLES / "chat_http.py").read_text(encoding="utf-8"), encoding="utf-8")
    return copy


class Server:
    """A running example."""

    def __init__(self, process: "subprocess.Popen[str]", url: str) -> None:
        self.process, self.url = process, url

    def post(self, session: str, said: bytes | str, *, timeout: float = 60) -> tuple[int, str]:
        """Say something, and return the status and what is replied."""
        data = said.encode() if isinstance(said, str) else said
        request = urllib.request.Request(f"{self.url}/{session}", data=data)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read().decode()


@contextmanager
def running(script: Path, folder: Path, variables: dict[str, str]) -> Iterator[Server]:
    """Run a script in a folder, where its store and its log are; kill it at the end."""
    with (folder / "log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, str(script), "0"], cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=log, text=True
        )
    with process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("listening on "), (folder / "log").read_text()
            yield Server(process, line.removeprefix("listening on ").strip())
        finally:
            process.kill()
