"""Shows URLs of stores without their secrets."""

from __future__ import annotations

import re
from urllib.parse import unquote_plus

_SCHEME = re.compile(r"\s*[\w+.-]*:/+")
_PARAMETER = re.compile(r"(?<=[?&])([^=&]*)=[^&]*")
_SECRET = re.compile(r"pass|pwd|secret|token", re.IGNORECASE)


def check_url(url: object) -> None:
    """Refuse what cannot be a URL, such as None from an environment variable that is not set.

    Raises:
        TypeError: if it is not a str.
    """
    if not isinstance(url, str):
        raise TypeError(f"a store's URL must be a str, got {type(url).__name__}")


def redacted(url: str, credentials: re.Pattern[str]) -> str:
    """Return a URL that is safe to show and identifies a store: `***` replaces its secrets, and nothing else changes.

    Args:
        url: one that its driver takes.
        credentials: matches the user (first group) and `:password` (second group, if any) of such a URL, with the @
            that ends them, as the driver finds them.

    Raises:
        ValueError: if an @ follows where a host or path should be. Then part of the password could be taken for one.
    """
    found = credentials.search(url)
    rest = url[found.end() if found else 0 :]
    if "@" in rest.partition("?")[0] + rest.partition("=")[0]:
        raise ValueError(f"{without_secrets(url)!r} has a password with an @; write %40 instead")
    if found and found[2]:
        url = f"{url[: found.end(1)]}:***@{rest}"
    return _without_parameters(url)


def without_secrets(url: str) -> str:
    """Return what may be a URL, safe to show: it hides too much rather than show a password.

    Its writer may have forgotten to escape characters of the user and the password, so the password may be anywhere.
    """
    scheme = _SCHEME.match(url)
    begin = scheme.end() if scheme else 0
    return _without_parameters(url[:begin] + re.sub(r":.*@", ":***@", url[begin:], count=1, flags=re.DOTALL))


def _without_parameters(url: str) -> str:
    def hidden(parameter: re.Match[str]) -> str:
        return f"{parameter[1]}=***" if _SECRET.search(unquote_plus(parameter[1])) else parameter[0]

    return _PARAMETER.sub(hidden, url)
