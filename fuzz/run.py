"""Runs the targets of fuzz/targets.py, one after the other: `make fuzz FUZZ_SECONDS=300`.

The inputs that are worth keeping are in target/fuzz, where the next run begins; what fails is in target/fuzz/found.
"""

import argparse
import pathlib
import re
import subprocess
import sys

from targets import TARGETS

CORPUS = pathlib.Path(__file__).parents[1] / "target" / "fuzz"
FOUND = CORPUS / "found"
WORDS = CORPUS / "words.txt"


def write_seeds() -> None:
    """Write what each target begins with, and the words that inputs are made of."""
    FOUND.mkdir(parents=True, exist_ok=True)
    words = set()
    for name, (_, seeds) in TARGETS.items():
        (CORPUS / name).mkdir(exist_ok=True)
        for number, seed in enumerate(seeds()):
            (CORPUS / name / f"seed-{number}").write_bytes(seed)
            words |= set(re.findall(rb'"\w{2,20}"', seed))
    escaped = (word.decode().replace('"', '\\"') for word in sorted(words))
    WORDS.write_text("".join(f'"{word}"\n' for word in escaped), encoding="ascii")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("targets", nargs="*", default=list(TARGETS), help=", ".join(TARGETS))
    options = parser.parse_args()
    write_seeds()
    failed = []
    for name in options.targets:
        command = [sys.executable, str(pathlib.Path(__file__).parent / "targets.py"), name, str(CORPUS / name)]
        command += [f"-max_total_time={options.seconds}", f"-artifact_prefix={FOUND}/{name}-", f"-dict={WORDS}"]
        command += ["-timeout=20", "-rss_limit_mb=4096", "-print_final_stats=1", "-verbosity=0"]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        runs = re.findall(r"number_of_executed_units:\s*(\d+)", done.stderr)
        said = f"{int(runs[-1]):,} inputs in {options.seconds} s" if runs else "no input was tried"
        print(f"{name}: {said}{', and one that fails:' if done.returncode else ''}", flush=True)
        if done.returncode:
            failed.append(name)
            print(done.stdout[-4000:] + done.stderr[-4000:], flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; the inputs are in {FOUND}")


if __name__ == "__main__":
    main()
