"""The command `chatring`, also as `python -m chatring`."""

import os
import sys


def main() -> None:
    """Run the command.

    It exits with status 2, and a line on standard error, if what it needs is not installed, or nobody takes its output.
    """
    try:
        from chatring.cli import chatring
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in {"click", "rich"}:
            raise
        print("the command needs click and rich: pip install 'chatring[cli]'", file=sys.stderr)
        sys.exit(2)
    try:
        chatring(prog_name="chatring")
    except OSError as error:
        if error.filename is not None:  # not of writing
            raise
        # What is left to write would fail again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"Error: standard output: {error.strerror}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
