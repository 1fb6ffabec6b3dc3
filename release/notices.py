"""Writes THIRD_PARTY.md: what a wheel contains that is not chatring's own.

With `--check` it says whether the file is up to date.

The crates are those that Cargo.lock links into the extension, on any platform. The text around them is in this file.
"""

import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
NOTICES = ROOT / "THIRD_PARTY.md"

TEXT = """# Third-party notices

<!-- written by `python release/notices.py` -->

chatring is MIT-licensed (`LICENSE`). A wheel also contains the following. None of it asks anything of those who only use
chatring; whoever redistributes it passes these notices on.

## Vocabularies

The tokenizers' vocabularies are embedded in the extension. They come with the crate `tiktoken` {tiktoken}.

| encodings | from | copyright | licence |
|---|---|---|---|
| `r50k_base`, `p50k_base`, `p50k_edit`, `cl100k_base`, `o200k_base`, `o200k_harmony` | [OpenAI's tiktoken](https://github.com/openai/tiktoken) | 2022 OpenAI | MIT |
| `qwen2` | [Qwen 2.5](https://huggingface.co/Qwen/Qwen2.5-7B) | Alibaba Cloud | Apache-2.0 |
| `mistral_v3` | [mistral-common](https://github.com/mistralai/mistral-common), Tekken | Mistral AI | Apache-2.0 |

They are used unchanged but for their compressed form.

## Crates

Compiled into the extension. Where a crate offers a choice of licences, chatring takes the MIT licence.

| crate | version | copyright | licence of the crate |
|---|---|---|---|
{crates}
| Rust's standard library | that of the compiler | The Rust Project contributors | MIT OR Apache-2.0 |

## Licence texts

`LICENSES/Apache-2.0.txt` is the Apache License, Version 2.0. The MIT licence, for each of the above with its own copyright:

> Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation
> files (the "Software"), to deal in the Software without restriction, including without limitation the rights to use, copy,
> modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the
> Software is furnished to do so, subject to the following conditions:
>
> The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
> Software.
>
> THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
> WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
> COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE,
> ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""  # noqa: E501 (a table)


def cargo(*arguments: str) -> str:
    command = ["cargo", *arguments, "--locked"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, encoding="utf-8").stdout


def copyright_of(package: dict[str, object]) -> str:
    """Return whose it is: the first copyright line of its licences, or its authors where they name nobody."""
    folder = pathlib.Path(str(package["manifest_path"])).parent
    for path in (folder / "LICENSE-MIT", folder / "LICENSE", folder / "LICENSE.txt"):
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        for line in lines:
            if found := re.match(r"copyright \(c\) (.+)", line.strip(), re.IGNORECASE):
                return " ".join(found[1].split())
    authors = package["authors"]
    assert isinstance(authors, list)
    return ", ".join(re.sub(r" <.*>", "", author) for author in authors) or f"the authors of {package['name']}"


def notices() -> str:
    tree = cargo("tree", "--edges=normal,no-proc-macro", "--target=all", "--prefix=none", "--format={p}")
    linked = {tuple(line.split()[:2]) for line in tree.splitlines()}
    packages = json.loads(cargo("metadata", "--format-version=1"))["packages"]
    found = {package["name"]: package for package in packages if (package["name"], f"v{package['version']}") in linked}
    del found["chatring"]
    rows = [
        f"| {name} | {package['version']} | {copyright_of(package)} | {package['license']} |"
        for name, package in sorted(found.items())
    ]
    return TEXT.format(tiktoken=found["tiktoken"]["version"], crates="\n".join(rows))


def main() -> None:
    if sys.argv[1:] != ["--check"]:
        NOTICES.write_text(notices(), encoding="utf-8")
    elif NOTICES.read_text(encoding="utf-8") != notices():
        sys.exit("THIRD_PARTY.md is not what Cargo.lock says: run `python release/notices.py`")


if __name__ == "__main__":
    main()
