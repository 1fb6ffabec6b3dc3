"""The command `chatring`, also as `python -m chatring`."""

import sys


def main() -> None:
    """Run the command. It exits with status 2, and a line on standard error, if what it needs is not installed."""
    try:
        from chatring.cli import chatring
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in {"click", "rich"}:
            raise
        print("the command needs click and rich: pip install 'chatring[cli]'", file=sys.stderr)
        sys.exit(2)
    chatring(prog_name="chatring")


if __name__ == "__main__":
    main()
