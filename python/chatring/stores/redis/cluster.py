"""Clients for a cluster that gains servers and moves slots. redis-py's own clients follow this only in part."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import redis as sync_redis
from redis import asyncio as async_redis
from redis.asyncio.cluster import ClusterNode as AsyncClusterNode
from redis.cluster import PRIMARY, ClusterNode

from chatring.overriding import override

_SLOTS = 16_384


class _Layout(NamedTuple):
    """The slots of the primaries that a client knows, as these report them.

    Args:
        slots: of each primary.
        moving_to: the addresses of the servers that slots are moving to.
        is_whole: whether these primaries have all slots; if not, there are others.
    """

    slots: list[list[list[str]]]
    moving_to: set[str]
    is_whole: bool

    @classmethod
    def of(cls, answers: Iterable[dict[str, Any]]) -> _Layout:
        """Return the layout from the primaries' answers to CLUSTER NODES. Each knows which of its own slots move."""
        slots, moving_to, count = [], set(), 0
        for nodes in answers:
            own = next(node for node in nodes.values() if "myself" in node["flags"])
            slots.append(own["slots"])
            count += sum(int(range_[-1]) - int(range_[0]) + 1 for range_ in own["slots"])
            targets = {moving["node_id"] for moving in own["migrations"] if moving["state"] == "migrating"}
            moving_to |= {address for address, node in nodes.items() if node["node_id"] in targets}
        return cls(slots, moving_to, count == _SLOTS)


class Cluster(sync_redis.RedisCluster):
    """redis-py's client, but it follows slots that move to a server that had none."""

    def get_node(self, host: Any = None, port: Any = None, node_name: str | None = None) -> Any:
        """Return a server. One that is unknown is added if its name is given."""
        node = super().get_node(host, port, node_name)  # type: ignore[no-untyped-call]
        if node is None and node_name is not None:
            host, _, port = node_name.rpartition(":")
            made = ClusterNode(host, int(port), PRIMARY)  # type: ignore[no-untyped-call]
            node = self.nodes_manager.nodes_cache.setdefault(node_name, made)
        return node

    def keys_like(self, pattern: bytes, at_once: int) -> set[bytes]:
        """Return the keys of all servers that match. Each looks at `at_once` keys at a time."""
        keys: set[bytes] = set()
        for _ in range(2):
            layout = self._layout()
            if not layout.is_whole:
                self.nodes_manager.initialize()
                layout = self._layout()
            for name in layout.moving_to:
                self.get_node(node_name=name)
            keys.update(self.scan_iter(match=pattern, count=at_once))
            # A key that moved meanwhile may have been seen on neither server.
            if not layout.moving_to and self._layout() == layout:
                break
        return keys

    def _layout(self) -> _Layout:
        client: Any = self  # whose methods have no types
        return _Layout.of(client.execute_command("CLUSTER NODES", target_nodes=node) for node in client.get_primaries())


class AsyncCluster(async_redis.RedisCluster):
    """The async `Cluster`."""

    @override
    def get_node(self, host: Any = None, port: Any = None, node_name: str | None = None) -> Any:
        node = super().get_node(host, port, node_name)
        if node is None and node_name is not None:
            host, _, port = node_name.rpartition(":")
            made = AsyncClusterNode(host, int(port), PRIMARY, **self.nodes_manager.connection_kwargs)
            node = self.nodes_manager.nodes_cache.setdefault(node_name, made)
        return node

    async def keys_like(self, pattern: bytes, at_once: int) -> set[bytes]:
        """Return the keys of all servers that match. Each looks at `at_once` keys at a time."""
        await self.initialize()
        keys: set[bytes] = set()
        for _ in range(2):
            layout = await self._layout()
            if not layout.is_whole:
                await self.nodes_manager.initialize()
                layout = await self._layout()
            for name in layout.moving_to:
                self.get_node(node_name=name)
            keys.update([key async for key in self.scan_iter(match=pattern, count=at_once)])
            if not layout.moving_to and await self._layout() == layout:
                break
        return keys

    async def _layout(self) -> _Layout:
        primaries = self.get_primaries()
        return _Layout.of([await self.execute_command("CLUSTER NODES", target_nodes=node) for node in primaries])
