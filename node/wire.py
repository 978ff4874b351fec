"""Frames: what may travel in which class of topic, and who has signed it.

Every frame is signed once.  Operations (`tx`, `px`) and votes (`bft`) carry their own signature;
everything else is a `BusMessage`.  The sender in the topic must be the signer (relayed operations
excepted: anybody may relay one) and a member.
"""

from typing import Annotated

import msgspec

from consensus.block import Certificate, CertifiedBlock, Header
from consensus.codec import FRAME_BYTES_MAX, decode, encode
from consensus.domain import Digest, MemberId, Signature, Signer, Tag, UInt, Verifier, tagged
from consensus.operation import Operation

INLINE_BLOCK_BYTES_MAX = FRAME_BYTES_MAX - 1024
"""A larger block is announced by header and certificate, and pulled in parts."""

PART_BYTES_MAX = 48 * 1024
OPERATIONS_PER_FRAME_MAX = 500


class BusBody(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a bus message says.

    `recipient` is "" for everybody.  `session` is the sender's start [wall ms], `counter` rises
    with every message: a (session, counter) that is not higher than the last of its kind is a
    replay.
    """

    kind: Annotated[str, msgspec.Meta(pattern=r"^[a-z-]{1,24}\Z")]
    sender: MemberId
    recipient: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]{0,16}\Z")]
    session: UInt
    counter: UInt
    payload: Annotated[bytes, msgspec.Meta(max_length=FRAME_BYTES_MAX)]


class BusMessage(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A signed message that is neither operation nor vote."""

    body: BusBody
    signature: Signature


class Status(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """`st/<me>/status`: a word for people and peers; `lost` is the last will."""

    state: Annotated[str, msgspec.Meta(pattern=r"^(ready|lost)\Z")]


class Head(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """`st/<me>/head`: the highest certified block that the sender has."""

    height: UInt
    digest: Digest
    view: UInt


class BlockAnnounced(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A certified block too large for a frame: its parts are to be pulled."""

    header: Header
    certificate: Certificate


class BlockWanted(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Ask for part `part` of the certified block at `height`."""

    height: UInt
    part: Annotated[int, msgspec.Meta(ge=0, le=64)]


class BlockPart(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Part `part` of `parts` of an encoded certified block."""

    height: UInt
    part: Annotated[int, msgspec.Meta(ge=0, le=64)]
    parts: Annotated[int, msgspec.Meta(ge=1, le=65)]
    data: Annotated[bytes, msgspec.Meta(max_length=PART_BYTES_MAX)]


class OperationsWanted(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Ask for the bodies of operations that a proposal orders."""

    ids: Annotated[tuple[Digest, ...], msgspec.Meta(max_length=OPERATIONS_PER_FRAME_MAX)]


class OperationsSent(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Bodies that were asked for; they prove themselves."""

    operations: Annotated[tuple[Operation, ...], msgspec.Meta(max_length=OPERATIONS_PER_FRAME_MAX)]


class StatementsWanted(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """`px/<me>/want`: ask for members' statements at a price that the sender has not heard."""

    slot: UInt
    price: UInt
    members: Annotated[tuple[MemberId, ...], msgspec.Meta(max_length=200)]


BUS_PAYLOADS: dict[str, type[msgspec.Struct]] = {
    "status": Status,
    "head": Head,
    "block": CertifiedBlock,
    "block-announced": BlockAnnounced,
    "block-wanted": BlockWanted,
    "block-part": BlockPart,
    "operations-wanted": OperationsWanted,
    "operations": OperationsSent,
    "statements-wanted": StatementsWanted,
}


class Postmark:
    """Signs this member's bus messages, each with the next counter of its session."""

    def __init__(self, *, member: str, chain_id: bytes, signer: Signer, session: int) -> None:
        self._member = member
        self._chain_id = chain_id
        self._signer = signer
        self._session = session
        self._counter = 0

    def seal(self, kind: str, payload: msgspec.Struct, recipient: str = "") -> bytes:
        """Return the encoded, signed message."""
        assert type(payload) is BUS_PAYLOADS[kind]
        self._counter += 1
        body = BusBody(kind, self._member, recipient, self._session, self._counter, encode(payload))
        signature = self._signer.sign(tagged(Tag.BUS, self._chain_id, encode(body)))
        return encode(BusMessage(body, signature))


class Doorman:
    """Opens bus messages of members, once each."""

    def __init__(
        self, *, member: str, chain_id: bytes, keys: dict[str, bytes], verifier: Verifier
    ) -> None:
        self._member = member
        self._chain_id = chain_id
        self._keys = keys
        self._verifier = verifier
        self._last: dict[tuple[str, str], tuple[int, int]] = {}

    def open(self, data: bytes, topic_sender: str) -> tuple[str, msgspec.Struct] | str:
        """Return (kind, payload) of an authentic, new message, else why it is refused.

        Cheap checks come first, the signature last.

        Raises:
            MalformedError: Not the canonical encoding of a bus message.
        """
        message = decode(data, BusMessage)
        body = message.body
        if body.sender != topic_sender:
            return "topic and sender differ"
        key = self._keys.get(body.sender)
        if key is None:
            return "stranger"
        if body.recipient not in ("", self._member):
            return "for somebody else"
        type_ = BUS_PAYLOADS.get(body.kind)
        if type_ is None:
            return "unknown kind"
        stamp = (body.session, body.counter)
        if stamp <= self._last.get((body.sender, body.kind), (-1, -1)):
            return "replay"
        payload = decode(body.payload, type_)
        message_bytes = tagged(Tag.BUS, self._chain_id, encode(body))
        if not self._verifier.verify(key, message_bytes, message.signature):
            return "signature"
        self._last[body.sender, body.kind] = stamp
        return body.kind, payload


def split_block(block: CertifiedBlock) -> list[BlockPart]:
    """Cut an encoded block into parts that fit a frame."""
    data = encode(block)
    parts = range(0, len(data), PART_BYTES_MAX)
    return [
        BlockPart(block.header.height, index, len(parts), data[start : start + PART_BYTES_MAX])
        for index, start in enumerate(parts)
    ]
