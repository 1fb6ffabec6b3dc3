"""How messages are stored: a format turns messages of a provider or framework into text, and back."""

from chatring.formats.format import Format
from chatring.formats.json_format import JsonFormat

__all__ = ["Format", "JsonFormat"]
