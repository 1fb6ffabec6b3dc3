"""The command `chatring`: a module for each subcommand, and what they share."""

from chatring.cli.group import chatring

__all__ = ["chatring"]
