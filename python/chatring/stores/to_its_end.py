"""`to_its_end`: changes that a cancellation does not break off."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def to_its_end(changes: Coroutine[Any, Any, Any]) -> Any:
    """Await several changes that belong together: all of them are made before a cancellation is passed on."""
    task = asyncio.ensure_future(changes)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:  # noqa: PERF203 (there may be several)
            cancelled = error
    if cancelled is not None:
        if not task.cancelled() and (failed := task.exception()) is not None:
            raise cancelled from failed
        raise cancelled
    return task.result()
