"""The replicated state as bytes under keys, and its root.

256 buckets by the first byte of SHA-256(key), each a Merkle tree over its entries in key order;
only buckets that a block touched are hashed again.  A bucket is the unit of state transfer.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from consensus.domain import Tag, leaf_digest
from consensus.merkle import EMPTY_ROOT, merkle_root

BUCKETS = 256

Writes = Mapping[str, bytes | None]
"""New value per key; None deletes."""


class StateView(Protocol):
    """Reading access to replicated state."""

    def get(self, key: str) -> bytes | None:
        """Return the value under `key`, None if there is none."""
        ...


def bucket_of(key: str) -> int:
    """Return the bucket that holds `key`."""
    return hashlib.sha256(key.encode()).digest()[0]


def entry_leaf(key: str, value: bytes) -> bytes:
    """Return the Merkle leaf of one entry; the length prefix keeps key and value apart."""
    name = key.encode()
    return leaf_digest(Tag.STATE_ENTRY, len(name).to_bytes(4, "big") + name + value)


class StateTree:
    """The whole state in memory: a read view with a root that follows each block's writes."""

    def __init__(self, entries: Iterable[tuple[str, bytes]] = ()) -> None:
        self._buckets: list[dict[str, bytes]] = [{} for _ in range(BUCKETS)]
        self._roots = [EMPTY_ROOT] * BUCKETS
        self.apply(dict(entries))

    def get(self, key: str) -> bytes | None:
        """Return the value under `key`, None if there is none."""
        return self._buckets[bucket_of(key)].get(key)

    def items(self) -> Iterator[tuple[str, bytes]]:
        """Iterate over all entries, bucket by bucket."""
        for bucket in self._buckets:
            yield from sorted(bucket.items())

    def apply(self, writes: Writes) -> None:
        """Carry out a block's writes."""
        dirty = set()
        for key, value in writes.items():
            index = bucket_of(key)
            dirty.add(index)
            if value is None:
                self._buckets[index].pop(key, None)
            else:
                self._buckets[index][key] = value
        for index in dirty:
            self._roots[index] = self._bucket_root(self._buckets[index])

    @property
    def root(self) -> bytes:
        """The state root that headers carry."""
        return merkle_root(self._roots)

    @staticmethod
    def _bucket_root(bucket: Mapping[str, bytes]) -> bytes:
        return merkle_root([entry_leaf(key, value) for key, value in sorted(bucket.items())])
