"""The scripts that the server runs for `RedisBackend`, in Lua. Each change and each read is one of them.

`shared.lua`, which is in front of every script, says how a session is stored. The server runs one script at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.resources import files

VERSION = 2
"""The version of the layout. Every change of the layout raises it. A store refuses sessions of a higher version."""

UPGRADES: Mapping[int, str] = {}
"""By layout: the commands, in Lua, that upgrade a session to the next layout. They run at its first use. Layout 1 was
never released, so it has none."""


class Script:
    """A script, as the server knows it.

    Args:
        name: of its file, and of its calls in logs.
        front: the text in front of the file's.
        changes: whether it changes anything, so that it must not be sent twice.
    """

    def __init__(self, name: str, front: str, *, changes: bool) -> None:
        self.name = name
        self.source = front + _text(name)
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()
        self.changes = changes


class Scripts:
    """All scripts, for one version of the layout.

    Args:
        version: of the layout that they read and write.
        upgrades: the steps to it, like `UPGRADES`.
    """

    def __init__(self, version: int = VERSION, upgrades: Mapping[int, str] = UPGRADES) -> None:
        self.version = version
        self.upgrades = upgrades
        shared = f"local VERSION = '{version}'\n{_text('shared')}"
        steps = "".join(f"UPGRADES['{number}'] = function()\n{step}\nend\n" for number, step in upgrades.items())
        self.read = Script("read", shared, changes=False)
        self.claim = Script("claim", shared, changes=True)
        self.rows = Script("rows", shared, changes=False)
        self.window = Script("window", shared, changes=False)
        self.write = Script("write", shared, changes=True)
        self.delete = Script("delete", shared, changes=True)
        self.delete_layout_1 = Script("delete_layout_1", shared, changes=True)
        self.upgrade = Script("upgrade", f"{shared}local UPGRADES = {{}}\n{steps}", changes=True)


def _text(name: str) -> str:
    return files(__package__).joinpath(f"{name}.lua").read_text(encoding="utf-8")
