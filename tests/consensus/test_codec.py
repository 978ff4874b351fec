"""The canonical encoding, with a second library on the other side.

The vectors are fixed: one that changes is a change of the protocol, whatever library did it.
"""

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped] # the package brings no types
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus import block, messages, nonces, operation
from consensus.block import BLOCK_BYTES_MAX, Certificate, CertifiedBlock, Content, Header
from consensus.codec import FRAME_BYTES_MAX, decode, encode
from consensus.domain import MemberId, Tag, UInt
from consensus.errors import MalformedError
from consensus.messages import Checkpoint, Commit, Message, Prepare, PrePrepare, vote_bytes
from consensus.operation import Channel, Operation, OperationBody
from tests.support.replicas import CHAIN_ID

VECTORS = json.loads((Path(__file__).parent / "vectors" / "wire.json").read_text())
ENCODINGS = VECTORS["encodings"]
WIRE_TYPES: dict[str, Any] = {
    name: getattr(module, name)
    for module in (block, messages, nonces, operation)
    for name in {each["type"] for each in ENCODINGS}
    if hasattr(module, name)
}
MESSAGE: Any = Message


def plain(value: Any) -> Any:
    """Read a vector's value: lists are arrays, {"hex": ...} are bytes."""
    if isinstance(value, list):
        return [plain(each) for each in value]
    return bytes.fromhex(value["hex"]) if isinstance(value, dict) else value


@pytest.mark.parametrize("vector", ENCODINGS, ids=lambda each: each["type"])
def test_our_bytes_are_those_of_the_other_library(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["bytes"])

    assert msgpack.packb(plain(vector["value"]), use_bin_type=True) == data
    assert msgpack.unpackb(data, raw=False, strict_map_key=True) == plain(vector["value"])
    assert encode(decode(data, WIRE_TYPES[vector["type"]])) == data


def test_every_wire_type_has_a_vector() -> None:
    assert set(WIRE_TYPES.values()) >= {
        *(OperationBody, Operation, Content, Header, Certificate, CertifiedBlock),
        *(PrePrepare, Prepare, Commit, Checkpoint, nonces.NonceWindow),
    }


def test_digests_follow_from_the_bytes_by_the_book() -> None:
    for each in VECTORS["digests"]:
        signed = prefix(each["tag"], each["chain"]) + bytes.fromhex(each["body"])
        assert hashlib.sha256(signed).hexdigest() == each["digest"]
    content = decode(bytes.fromhex(VECTORS["digests"][0]["body"]), Content)
    header = decode(bytes.fromhex(VECTORS["digests"][1]["body"]), Header)
    assert content.digest(CHAIN_ID).hex() == VECTORS["digests"][0]["digest"]
    assert header.digest(CHAIN_ID).hex() == VECTORS["digests"][1]["digest"]


def test_votes_sign_what_the_book_says() -> None:
    for each in VECTORS["votes"]:
        digest = bytes.fromhex(each["digest"])
        vote = [each["view"], each["sequence"], digest, each["member"]]
        by_the_book = (
            prefix(each["tag"], each["chain"])
            + each["epoch"].to_bytes(8, "big")
            + msgpack.packb(vote, use_bin_type=True)
        )
        ours = vote_bytes(
            Tag(each["tag"]),
            bytes.fromhex(each["chain"]),
            epoch=each["epoch"],
            view=each["view"],
            sequence=each["sequence"],
            digest=digest,
            member=each["member"],
        )
        assert ours.hex() == by_the_book.hex() == each["bytes"]


def test_an_operation_s_id_is_its_leaf_and_spares_the_signature() -> None:
    vector = VECTORS["operation"]
    body = bytes.fromhex(vector["body"])
    signed_twice = [Operation(decode(body, OperationBody), bytes([n]) * 64) for n in (1, 2)]

    leaf = hashlib.sha256(b"\0" + bytes([Tag.OPERATION]) + body).hexdigest()

    assert {each.id.hex() for each in signed_twice} == {leaf} == {vector["id"]}
    assert prefix(Tag.OPERATION, vector["chain"]) + body == bytes.fromhex(vector["signed"])


def prefix(tag: int, chain: str) -> bytes:
    return b"WATTSTREET-v1\0" + bytes([tag]) + bytes.fromhex(chain)


# What is not the one encoding of a value of the type is refused, always in the same way.

PREPARE = bytes.fromhex(next(each["bytes"] for each in ENCODINGS if each["type"] == "Prepare"))


@pytest.mark.parametrize(
    ("data", "type_"),
    [
        (b"\xcc\x01", UInt),
        (b"\xcd\x00\x01", UInt),
        (b"\xd3" + bytes(7) + b"\x01", UInt),
        (b"\xd9\x01a", MemberId),
        (b"\xc5\x00\x01\x00", bytes),
        (b"\xdc\x00\x01\x01", tuple[int, ...]),
        (b"\xdd\x00\x00\x00\x01\x01", tuple[int, ...]),
    ],
    ids=["int8", "int16", "signed int64", "str8", "bin16", "array16", "array32"],
)
def test_a_longer_encoding_of_a_value_is_refused(data: bytes, type_: Any) -> None:
    assert msgpack.unpackb(data) is not None, "the other library takes it"
    with pytest.raises(MalformedError):
        decode(data, type_)


@pytest.mark.parametrize(
    ("data", "type_"),
    [
        (b"\xc3", UInt),
        (b"\xca\x3f\x80\x00\x00", UInt),
        (b"\xcb\x3f\xf0" + bytes(6), UInt),
        (b"\xc0", UInt),
        (b"\xa11", UInt),
        (b"\xff", UInt),
        (b"\xcf" + b"\xff" * 8, UInt),
        (b"\xcf\x80" + bytes(7), UInt),
        (b"\xc4\x01a", MemberId),
        (b"\xa1a", bytes),
        (b"\x81\x01\x02", Content),
        (b"\xc7\x01\x05a", bytes),
        (b"\xd6\xff" + bytes(4), UInt),
        (b"\xc1", UInt),
        (b"\xa2\xc3\x28", MemberId),
    ],
    ids=[
        *("bool", "float32", "float64", "nil", "text", "negative", "beyond int64", "2^63"),
        *("bytes for text", "text for bytes", "map for array", "extension", "timestamp"),
        *("unused byte", "not utf-8"),
    ],
)
def test_another_type_is_refused(data: bytes, type_: Any) -> None:
    with pytest.raises(MalformedError):
        decode(data, type_)


@pytest.mark.parametrize("data", [b"", PREPARE + b"\0", PREPARE[:-1], PREPARE + PREPARE])
def test_missing_and_trailing_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        decode(data, MESSAGE)


def test_fields_are_neither_missing_nor_added() -> None:
    fields = msgpack.unpackb(PREPARE)

    for changed in (fields[:-1], [*fields, 0], [], ["x", *fields[1:]], [fields]):
        with pytest.raises(MalformedError):
            decode(msgpack.packb(changed), MESSAGE)


@pytest.mark.parametrize("depth", [2, 100, 5_000, 60_000])
def test_depth_is_refused(depth: int) -> None:
    for type_ in (MESSAGE, tuple[int, ...]):
        with pytest.raises(MalformedError):
            decode(b"\x91" * depth + b"\x01", type_)


@pytest.mark.parametrize(
    "header", ["ddffffffff", "dbffffffff", "c6ffffffff", "dfffffffff", "dcffff", "c9ffffffff00"]
)
def test_a_header_that_promises_too_much_is_refused(header: str) -> None:
    for type_ in (MESSAGE, CertifiedBlock, tuple[int, ...], bytes):
        for before in (b"", b"\x96\xa1p"):
            with pytest.raises(MalformedError):
                decode(before + bytes.fromhex(header), type_)


def test_length_is_bounded_before_anything_else() -> None:
    longest = encode(bytes(FRAME_BYTES_MAX - 3))

    assert len(decode(longest, bytes)) == FRAME_BYTES_MAX - 3
    with pytest.raises(MalformedError, match="at most 65536"):
        decode(longest + b"\0", bytes)
    with pytest.raises(MalformedError, match="at most 10 "):
        decode(bytes(11), bytes, bytes_max=10)


@pytest.mark.parametrize("text", ["ann\n", "", "Ann", "a" * 17, "ä", "a b", "\n", "a\0"])
def test_a_member_id_is_nothing_but_small_letters_and_digits(text: str) -> None:
    with pytest.raises(MalformedError):
        decode(msgpack.packb(text), MemberId)


def test_a_kind_ends_where_it_ends() -> None:
    fields = msgpack.unpackb(bytes.fromhex(VECTORS["operation"]["body"]))

    decode(msgpack.packb(fields), OperationBody)
    for kind in ("order\n", "", "Order", "x" * 25):
        with pytest.raises(MalformedError):
            decode(msgpack.packb([kind, *fields[1:]]), OperationBody)


def test_lengths_of_digests_and_signatures_are_fixed() -> None:
    fields = msgpack.unpackb(PREPARE)

    for position, value in ((4, bytes(31)), (4, bytes(33)), (6, bytes(63)), (6, bytes(65))):
        changed = [*fields[:position], value, *fields[position + 1 :]]
        with pytest.raises(MalformedError):
            decode(msgpack.packb(changed), MESSAGE)


def test_sequence_numbers_start_at_one() -> None:
    fields = msgpack.unpackb(PREPARE)

    with pytest.raises(MalformedError):
        decode(msgpack.packb([*fields[:3], 0, *fields[4:]]), MESSAGE)


uints = st.one_of(st.integers(0, 300), st.integers(0, 2**63 - 1))
members = st.from_regex(r"[a-z0-9]{1,16}", fullmatch=True)
digests, signatures = st.binary(min_size=32, max_size=32), st.binary(min_size=64, max_size=64)
contents = st.builds(
    Content,
    uints,
    st.integers(1, 2**63 - 1),
    uints,
    st.lists(digests, max_size=4).map(tuple),
)
bodies = st.builds(
    OperationBody,
    st.from_regex(r"[a-z-]{1,24}", fullmatch=True),
    st.sampled_from(Channel),
    members,
    st.integers(1, 2**32 - 1),
    uints,
    uints,
    st.binary(min_size=16, max_size=16),
    st.binary(max_size=300),
)
values = st.one_of(
    st.builds(PrePrepare, uints, uints, contents, members, signatures),
    *(
        st.builds(kind, uints, uints, st.integers(1, 2**63 - 1), digests, members, signatures)
        for kind in (Prepare, Commit)
    ),
    st.builds(Checkpoint, uints, st.integers(1, 2**63 - 1), digests, members, signatures),
    st.builds(Operation, bodies, signatures),
)


@given(values)
def test_a_value_comes_back_from_its_bytes(value: Any) -> None:
    data = encode(value)

    assert decode(data, type(value)) == value
    assert msgpack.packb(msgpack.unpackb(data), use_bin_type=True) == data


every_type = st.sampled_from([MESSAGE, *WIRE_TYPES.values()])


def outcome(data: bytes, type_: Any) -> msgspec.Struct | None:
    """Decode, or be refused in the one way that callers handle."""
    try:
        value: msgspec.Struct = decode(data, type_, bytes_max=BLOCK_BYTES_MAX)
    except MalformedError:
        return None
    return value


@given(st.binary(max_size=300), every_type)
def test_junk_is_refused_in_one_way(data: bytes, type_: Any) -> None:
    value = outcome(data, type_)

    assert value is None or encode(value) == data


@given(
    st.sampled_from([bytes.fromhex(each["bytes"]) for each in ENCODINGS]),
    st.lists(
        st.tuples(st.integers(0, 2**16), st.binary(max_size=9), st.integers(0, 9)), min_size=1
    ),
    every_type,
)
def test_mutated_bytes_are_refused_or_mean_exactly_themselves(
    data: bytes, changes: list[tuple[int, bytes, int]], type_: Any
) -> None:
    for position, put, cut in changes:
        at = position % (len(data) + 1)
        data = data[:at] + put + data[at + cut :]

    value = outcome(data, type_)

    assert value is None or encode(value) == data


def test_one_flipped_bit_never_leaves_the_meaning_as_it_was() -> None:
    for each in ENCODINGS:
        data, type_ = bytes.fromhex(each["bytes"]), WIRE_TYPES[each["type"]]
        meant = decode(data, type_)
        for index, bit in itertools.product(range(len(data)), range(8)):
            flipped = bytearray(data)
            flipped[index] ^= 1 << bit
            assert outcome(bytes(flipped), type_) != meant
