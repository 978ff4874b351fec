"""Following the chain: certified blocks in, in order; missing ones pulled from whoever has them.

Pure.  A block proves itself by its certificate, so any peer may supply it; a liar can only cost
time, and the next request goes to somebody else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from consensus.block import BLOCK_BYTES_MAX, Certificate, CertifiedBlock, Header
from consensus.certificate import verify_block, verify_certificate
from consensus.codec import decode
from consensus.domain import Verifier
from consensus.errors import CertificateError, DivergedError, MalformedError
from consensus.membership import Epoch
from node.wire import PART_BYTES_MAX, BlockPart, BlockWanted

AHEAD_MAX = 32
"""Verified blocks held beyond the next one; what is further ahead is pulled when its turn comes."""

PULLED_AT_ONCE = 4
"""Heights asked for in one go while catching up."""

NEVER_MS = 2**62


@dataclass(slots=True)
class _Assembly:
    """The parts, so far, of one block from the source that was asked; `parts` is 0 before any."""

    parts: int = 0
    data: list[bytes] = field(default_factory=list)


class Follower:
    """Keeps what is known of blocks beyond this node's height.

    Args:
        member: This node; it never asks itself.
        epoch, chain_id, verifier: To check certificates.
        height: Where the ledger stands.
        uncertified: Header digests, by height, of executed blocks without a certificate.
        patience_ms: How long to wait for a block that others have before asking [community ms].
    """

    def __init__(
        self,
        *,
        member: str,
        epoch: Epoch,
        chain_id: bytes,
        verifier: Verifier,
        height: int,
        uncertified: Mapping[int, bytes],
        patience_ms: int,
    ) -> None:
        self._sources = tuple(each for each in epoch.members if each != member)
        self._epoch = epoch
        self._chain_id = chain_id
        self._verifier = verifier
        self._height = height
        self._patience_ms = patience_ms
        self._uncertified = dict(uncertified)
        self._certificates: list[Certificate] = []
        self._blocks: dict[int, CertifiedBlock] = {}
        self._assemblies: dict[tuple[str, int], _Assembly] = {}
        self._known_height = height
        self._ask_at_ms = NEVER_MS
        self._certificate_at_ms = 0 if uncertified else NEVER_MS
        self._asked = 0
        self._asked_through = height

    @property
    def wake_ms(self) -> int:
        """When `tick` is next due."""
        return min(self._ask_at_ms, self._certificate_at_ms)

    def note_height(self, height: int, now_ms: int) -> None:
        """Take a peer's word that a certified block of `height` exists; it only makes us ask."""
        self._known_height = max(self._known_height, height)
        if self._known_height > self._height and self._ask_at_ms == NEVER_MS:
            self._ask_at_ms = now_ms + self._patience_ms

    def offer(self, block: CertifiedBlock, now_ms: int) -> str | None:
        """Take a certified block; return why it is refused, None if it is kept."""
        height = block.header.height
        if height in self._uncertified:
            return self._take_certificate(block.header, block.certificate)
        if height <= self._height or height in self._blocks:
            return "block already here"
        if height > self._height + AHEAD_MAX:
            return "block too far ahead"
        try:
            verify_block(block, epoch=self._epoch, chain_id=self._chain_id, verifier=self._verifier)
        except CertificateError:
            return "block not certified"
        self._blocks[height] = block
        self.note_height(height, now_ms)
        return None

    def announced(self, header: Header, certificate: Certificate, now_ms: int) -> str | None:
        """Take word of a certified block too large to come by itself: return why not, or None.

        Raises:
            DivergedError: A quorum certified another header than this node executed.
        """
        if header.height in self._uncertified:
            return self._take_certificate(header, certificate)
        if header.height <= self._height:
            return "block already here"
        if not self._is_certified(header, certificate):
            return "block not certified"
        self.note_height(header.height, now_ms)
        return None

    def _take_certificate(self, header: Header, certificate: Certificate) -> str | None:
        """Take the certificate of a block that was executed here before it was certified."""
        if not self._is_certified(header, certificate):
            return "block not certified"
        if certificate.header_digest != self._uncertified[header.height]:
            raise DivergedError(f"a quorum certified another header at height {header.height}")
        self._certificates.append(certificate)
        return None

    def _is_certified(self, header: Header, certificate: Certificate) -> bool:
        try:
            verify_certificate(
                certificate,
                header,
                epoch=self._epoch,
                chain_id=self._chain_id,
                verifier=self._verifier,
            )
        except CertificateError:
            return False
        return True

    def take_certificates(self) -> list[Certificate]:
        """Return, once, the certificates that came for executed blocks."""
        found, self._certificates = self._certificates, []
        return found

    def executed_uncertified(self, height: int, digest: bytes, now_ms: int) -> None:
        """Note a block that this node executed and whose certificate is still to come."""
        self._uncertified[height] = digest
        self._certificate_at_ms = min(self._certificate_at_ms, now_ms + self._patience_ms)

    def certified(self, height: int) -> None:
        """Note that a block's certificate is on disk."""
        self._uncertified.pop(height, None)

    def next_block(self) -> CertifiedBlock | None:
        """Return the verified block that follows this node's height, if it is here."""
        return self._blocks.get(self._height + 1)

    def stepped_to(self, height: int, now_ms: int) -> None:
        """Note that this node has executed `height`."""
        self._height = height
        self._blocks = {each: block for each, block in self._blocks.items() if each > height}
        self._known_height = max(self._known_height, height)
        is_behind = self._known_height > height
        # What was asked for is here: catching up needs no patience.
        wait_ms = 0 if height == self._asked_through else self._patience_ms
        self._ask_at_ms = now_ms + wait_ms if is_behind else NEVER_MS

    def tick(self, now_ms: int) -> list[tuple[str, BlockWanted]]:
        """Ask the next source for what is missing, if patience has run out."""
        wanted: list[int] = []
        if now_ms >= self._certificate_at_ms:
            wanted += sorted(self._uncertified)[:PULLED_AT_ONCE]
            self._certificate_at_ms = now_ms + self._patience_ms if wanted else NEVER_MS
        if now_ms >= self._ask_at_ms:
            self._ask_at_ms = now_ms + self._patience_ms
            last = min(self._known_height, self._height + PULLED_AT_ONCE)
            missing = range(self._height + 1, last + 1)
            wanted += (height for height in missing if height not in self._blocks)
            self._asked_through = last
        if not wanted:
            return []
        source = self._sources[self._asked % len(self._sources)]
        self._asked += 1
        # What another source has begun stays welcome, unless it is asked for anew or has come.
        begun = {
            key: assembly
            for key, assembly in self._assemblies.items()
            if key[1] not in wanted and (key[1] > self._height or key[1] in self._uncertified)
        }
        self._assemblies = begun | {(source, height): _Assembly() for height in wanted}
        return [(source, BlockWanted(height, 0)) for height in wanted]

    def receive_part(self, source: str, part: BlockPart, now_ms: int) -> BlockWanted | str | None:
        """Take a part that was asked for: return the next wish, why it is refused, or None.

        Only the source that was asked is heard, so that nobody can fill the memory; what it sends
        renews the patience with it.
        """
        key = (source, part.height)
        assembly = self._assemblies.get(key)
        if assembly is None or (part.parts - 1) * PART_BYTES_MAX >= BLOCK_BYTES_MAX:
            return "part not wanted"
        if (part.parts, part.part) != (assembly.parts or part.parts, len(assembly.data)):
            return "part out of order"
        assembly.parts = part.parts
        assembly.data.append(part.data)
        if len(assembly.data) < assembly.parts:
            self._renew_patience(now_ms)
            return BlockWanted(part.height, part.part + 1)
        del self._assemblies[key]
        try:
            block = decode(b"".join(assembly.data), CertifiedBlock, bytes_max=BLOCK_BYTES_MAX)
        except MalformedError:
            return "block malformed"
        return self.offer(block, now_ms)

    def _renew_patience(self, now_ms: int) -> None:
        due_ms = now_ms + self._patience_ms
        self._ask_at_ms = due_ms if self._ask_at_ms < NEVER_MS else NEVER_MS
        self._certificate_at_ms = due_ms if self._certificate_at_ms < NEVER_MS else NEVER_MS
