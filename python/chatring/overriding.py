"""`override` for methods that keep the docstring of the method they override.

Type checkers see the one of `typing_extensions`, which chatring does not need at run time.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import override
else:

    def override(method):
        """Return `method` as it is."""
        return method


__all__ = ["override"]
