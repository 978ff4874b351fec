"""Exactly-once execution: per signer the highest used nonce and a 64-bit window below it.

Reordering within the window is harmless; a used nonce, or one below the window, is a no-op.  The
window is part of the replicated state, never a local cache, so every replica skips the same
operations, also after restart and state transfer.
"""

import msgspec

from consensus.domain import UInt

WINDOW_BITS = 64


class NonceWindow(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """`highest` is the highest used nonce; bit i of `used` says that highest - i was used."""

    highest: UInt
    used: bytes

    @property
    def _mask(self) -> int:
        return int.from_bytes(self.used, "big")

    def is_used(self, nonce: int) -> bool:
        """Whether `nonce` was used, or is too old to tell."""
        if nonce > self.highest:
            return False
        age = self.highest - nonce
        return age >= WINDOW_BITS or bool(self._mask >> age & 1)

    def use(self, nonce: int) -> "NonceWindow":
        """Return the window after using a fresh `nonce`."""
        assert not self.is_used(nonce)
        if nonce > self.highest:
            shift = nonce - self.highest
            mask = (self._mask << shift | 1) if shift < WINDOW_BITS else 1
            return _window(nonce, mask)
        return _window(self.highest, self._mask | 1 << (self.highest - nonce))


def _window(highest: int, mask: int) -> NonceWindow:
    kept = mask & ((1 << WINDOW_BITS) - 1)
    return NonceWindow(highest=highest, used=kept.to_bytes(WINDOW_BITS // 8, "big"))


FRESH_WINDOW = _window(0, 0)
"""A signer that has used nothing yet; its first nonce is 1."""
