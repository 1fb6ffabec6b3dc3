"""The command `chatring`, also run by `python -m chatring`."""

import os
import sys


def main() -> None:
    """Run the command.

    It exits with status 2 and a line on standard error if something it needs is not installed, or if its output cannot
    be written.
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
        if error.filename is not None:  # not an error of writing
            raise
        # The rest of the output would fail again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"Error: standard output: {error.strerror}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
