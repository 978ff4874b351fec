import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.block import Content
from consensus.codec import encode
from consensus.domain import Tag, tagged_digest
from consensus.merkle import merkle_root
from consensus.nonces import WINDOW_BITS
from consensus.operation import Channel, Operation
from market.clearing import Rung
from market.contracts.matching import BookRecord, Convicted
from market.errors import Result
from market.events import Cleared, SettlementLine
from market.orders import Side
from market.payloads import ContradictionPayload
from market.state import book_key, convicted_key, nonce_key, order_key, read, usage_key
from market.statements import Statement
from node.execution import SALT_BYTES, EventRecord, ExecutedBlock, Execution, Receipt
from node.identity import SodiumVerifier
from tests.support.street import FIRST, HOMES, HOUR_MS, Chain, make_calendar, order, reading

OPENING_MS = make_calendar().opening_ms(FIRST)
GATE_MS = FIRST * HOUR_MS - make_calendar().gate_ms
ROOT = Path(__file__).parents[2]


def receipts(block: ExecutedBlock) -> list[Receipt]:
    return [
        msgspec.msgpack.decode(record.payload, type=Receipt)
        for record in block.events
        if record.kind == "receipt"
    ]


def results(block: ExecutedBlock) -> list[Result]:
    return [receipt.result for receipt in receipts(block)]


def decoded(block: ExecutedBlock, kind: str, type_: type[Any]) -> list[Any]:
    return [
        msgspec.msgpack.decode(record.payload, type=type_)
        for record in block.events
        if record.kind == kind
    ]


def play_two_slots() -> tuple[Chain, list[ExecutedBlock]]:
    chain = Chain()
    return chain, [*chain.play_slot(FIRST), *chain.play_slot(FIRST + 4)]


# -- one content, one header


def test_two_executions_give_the_same_bytes() -> None:
    first, second = (play_two_slots() for _ in range(2))

    for one, other in zip(first[1], second[1], strict=True):
        assert encode(one.header) == encode(other.header)
        assert encode(one.events) == encode(other.events)
        assert one.writes == other.writes
    assert list(first[0].execution.state.items()) == list(second[0].execution.state.items())


@pytest.mark.system
def test_hash_seeds_do_not_reach_the_chain() -> None:
    script = (
        "from tests.support.street import Chain, FIRST\n"
        "chain = Chain()\n"
        "chain.play_slot(FIRST)\n"
        "chain.play_slot(FIRST + 4)\n"
        "print(chain.execution.digest.hex(), chain.execution.state.root.hex())\n"
    )

    printed = {
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
            timeout=15,
        ).stdout
        for seed in ("0", "1", "4242")
    }

    chain, _ = play_two_slots()
    expected = f"{chain.execution.digest.hex()} {chain.execution.state.root.hex()}\n"
    assert printed == {expected.encode()}


def test_execution_goes_on_from_stored_state_and_header() -> None:
    chain = Chain()
    chain.play_slot(FIRST)
    stored = list(chain.execution.state.items())
    resumed = Execution(
        chain.genesis, SodiumVerifier(), state=stored, header=chain.execution.header
    )
    operation = chain.sign("b1", order(Side.BUY, 5, slot=FIRST + 4))
    time_ms = chain.execution.header.time_ms + HOUR_MS
    content = Content(0, chain.execution.header.height + 1, time_ms, (operation.id,))

    one, other = (each.execute(content, [operation]) for each in (chain.execution, resumed))

    assert one.header == other.header
    assert results(one) == [Result.OK]


def test_content_out_of_sequence_is_a_bug_of_the_caller() -> None:
    chain = Chain()

    with pytest.raises(AssertionError):
        chain.execution.execute(Content(0, 2, OPENING_MS, ()), ())


# -- the header


def test_headers_form_a_chain() -> None:
    chain, blocks = play_two_slots()
    genesis = chain.genesis.header(Execution(chain.genesis, SodiumVerifier()).state.root)

    parents = [genesis.digest(chain.genesis.chain_id), *(block.digest for block in blocks)]
    for height, block in enumerate(blocks, start=1):
        header = block.header
        assert (header.height, header.parent) == (height, parents[height - 1])
        assert block.digest == header.digest(chain.genesis.chain_id)
        assert header.content_digest == block.content.digest(chain.genesis.chain_id)
        assert header.endorsers == header.next_endorsers == genesis.endorsers
    assert blocks[-1].header.state_root == chain.execution.state.root


def test_effective_time_never_goes_back() -> None:
    chain = Chain()

    times = [chain.block(time_ms).header.time_ms for time_ms in (OPENING_MS, 0, OPENING_MS + 5)]

    assert times == [OPENING_MS, OPENING_MS, OPENING_MS + 5]


def test_an_operation_is_judged_by_effective_time() -> None:
    chain = Chain()
    chain.block(GATE_MS)

    block = chain.block(OPENING_MS, chain.sign("b1", order(Side.BUY, 5)))

    assert results(block) == [Result.GATE_CLOSED]


def test_deadlines_run_before_the_operations_of_their_block() -> None:
    chain = Chain()

    block = chain.block(GATE_MS, chain.sign("b1", order(Side.BUY, 5)))

    assert [record.kind for record in block.events] == ["gate-closed", "receipt"]
    assert results(block) == [Result.GATE_CLOSED]


def test_a_block_after_delivery_began_clears_nothing_late() -> None:
    chain = Chain()
    chain.block(
        OPENING_MS,
        chain.sign("b1", order(Side.BUY, 500)),
        chain.sign("s1", order(Side.SELL, 500)),
    )

    block = chain.block((FIRST + 2) * HOUR_MS)

    first = decoded(block, "cleared", Cleared)[0]
    assert (first.slot, first.rung, first.traded_wh) == (FIRST, Rung.GRID, 0)
    assert chain.execution.next_deadline() is not None


def test_channel_roots_cover_operations_and_then_events() -> None:
    _, blocks = play_two_slots()

    for block in blocks:
        roots = {}
        for channel in Channel:
            leaves = [each.id for each in block.operations if each.body.channel == channel]
            leaves += [each.leaf for each in block.events if each.channel == channel]
            roots[channel] = merkle_root(leaves)
        header = block.header
        assert [header.trade_root, header.energy_root, header.info_root] == list(roots.values())
    assert len({block.header.energy_root for block in blocks}) == 3


# -- receipts


def test_every_operation_has_exactly_one_receipt_in_order() -> None:
    _, blocks = play_two_slots()

    for block in blocks:
        assert [each.operation_id for each in receipts(block)] == [
            operation.id for operation in block.operations
        ]
    assert {result for block in blocks for result in results(block)} == {Result.OK}


def test_a_receipt_lies_in_the_channel_and_under_the_name_of_its_operation() -> None:
    chain = Chain()
    operation = chain.sign("b1", reading(5))

    (record,) = chain.block(OPENING_MS, operation).events

    assert (record.channel, record.subject) == (Channel.ENERGY, "b1")


def test_a_settlement_has_one_line_per_household_under_its_name() -> None:
    chain = Chain()

    settled = chain.play_slot(FIRST)[-1]

    subjects = [each.subject for each in settled.events if each.kind == "settlement-line"]
    lines = decoded(settled, "settlement-line", SettlementLine)
    assert subjects == [line.member for line in lines] == sorted(HOMES)


# -- exactly once


def test_an_operation_ordered_twice_is_a_recorded_no_op_the_second_time() -> None:
    chain = Chain()
    operation = chain.sign("b1", order(Side.BUY, 5))
    first = chain.block(OPENING_MS, operation)

    second = chain.block(OPENING_MS, operation, operation)

    assert results(second) == [Result.NONCE_USED, Result.NONCE_USED]
    assert second.header.state_root == first.header.state_root
    assert second.writes == {}
    assert chain.execution.has_used(operation)


def test_a_nonce_is_used_by_one_operation_only() -> None:
    chain = Chain()
    operation = chain.sign("b1", order(Side.BUY, 5))
    other = chain.sign("b1", order(Side.BUY, 6, revision=2), nonce=1)

    block = chain.block(OPENING_MS, operation, other)

    assert results(block) == [Result.OK, Result.NONCE_USED]


def test_nonces_may_come_in_any_order_inside_their_window() -> None:
    chain = Chain()
    nonces = (WINDOW_BITS + 1, 2, 1, WINDOW_BITS)
    operations = [
        chain.sign("b1", order(Side.BUY, 5, revision=n), nonce=nonce)
        for n, nonce in enumerate(nonces, start=1)
    ]

    block = chain.block(OPENING_MS, *operations)

    assert results(block) == [Result.OK, Result.OK, Result.NONCE_USED, Result.OK]
    assert chain.execution.highest_nonce("b1") == WINDOW_BITS + 1


def test_the_nonces_of_one_member_are_not_those_of_another() -> None:
    chain = Chain()

    block = chain.block(
        OPENING_MS, *(chain.sign(member, order(Side.BUY, 5), nonce=7) for member in HOMES)
    )

    assert results(block) == [Result.OK] * 4


def test_the_highest_nonce_there_is_only_locks_out_its_own_signer() -> None:
    chain = Chain()
    chain.block(OPENING_MS, chain.sign("b1", order(Side.BUY, 5), nonce=2**63 - 1))

    block = chain.block(
        OPENING_MS,
        chain.sign("b1", order(Side.BUY, 6, revision=2)),
        chain.sign("b2", order(Side.BUY, 6)),
    )

    assert results(block) == [Result.NONCE_USED, Result.OK]


# -- what the market cannot read


@pytest.mark.parametrize(
    ("kind", "payload", "result"),
    [
        ("order", b"", Result.MALFORMED),
        ("order", b"\xc1", Result.MALFORMED),
        ("order", encode((FIRST, 1, 0, 5, 0)), Result.MALFORMED),
        ("order", encode((FIRST, 1, 0, 5, 0, 0, 0)), Result.MALFORMED),
        ("order", encode((FIRST, 1, 0, -5, 0, 0)), Result.MALFORMED),
        ("order", encode((FIRST, 1, 0, 5.0, 0, 0)), Result.MALFORMED),
        ("order", encode((FIRST, 1, False, 5, 0, 0)), Result.MALFORMED),
        ("order", encode((FIRST, 1, 0, 5, 0, 0)) + b"\0", Result.MALFORMED),
        ("order", b"\x96\xce\x00\x07\x53\x00\x01\x00\xcc\x05\x00\x00", Result.MALFORMED),
        ("order", encode({"slot": FIRST}), Result.MALFORMED),
        ("order", b"\x91" * 5000 + b"\x00", Result.MALFORMED),
        ("reading", encode((FIRST, 5, 0, "guessed", "household")), Result.MALFORMED),
        ("statement", encode((FIRST, bytes(31), 1, 1, 1)), Result.MALFORMED),
        ("statement", encode((FIRST, bytes(32), 17, 1, 1)), Result.MALFORMED),
        ("gift", encode((FIRST, 1, 0, 5, 0, 0)), Result.UNKNOWN_KIND),
        ("gift", b"", Result.UNKNOWN_KIND),
    ],
)
def test_what_the_market_cannot_read_is_a_recorded_no_op(
    kind: str, payload: bytes, result: Result
) -> None:
    chain = Chain()

    block = chain.block(OPENING_MS, chain.sign("b1", payload, kind=kind))

    assert results(block) == [result]
    assert set(block.writes) <= {nonce_key("b1"), usage_key("b1")}


def test_an_operation_in_another_channel_than_its_kinds_is_a_recorded_no_op() -> None:
    chain = Chain()

    block = chain.block(OPENING_MS, chain.sign("b1", order(Side.BUY, 5), channel=Channel.INFO))

    assert results(block) == [Result.WRONG_CHANNEL]
    assert chain.execution.state.get(order_key(FIRST, "b1")) is None


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(("order", "withdraw", "reading", "statement", "contradiction", "gift")),
    st.one_of(
        st.binary(max_size=60),
        st.recursive(
            st.one_of(st.integers(-(2**63), 2**64 - 1), st.binary(max_size=40), st.text()),
            lambda inner: st.lists(inner, max_size=7),
            max_leaves=12,
        ).map(encode),
    ),
    st.sampled_from(list(Channel)),
    st.integers(0, 2**63 - 1),
)
def test_no_bytes_in_a_payload_stop_the_chain(
    kind: str, payload: bytes, channel: Channel, nonce: int
) -> None:
    chain = Chain()
    operation = chain.sign("b1", payload, kind=kind, channel=channel, nonce=nonce)

    block = chain.block(OPENING_MS, operation)

    assert len(receipts(block)) == 1
    assert chain.block(GATE_MS).header.height == 2


def test_a_flood_of_one_member_is_recorded_but_not_looked_at() -> None:
    chain = Chain()
    flood = [chain.sign("b1", b"", kind="order") for _ in range(40)]

    block = chain.block(OPENING_MS, *flood, chain.sign("b2", order(Side.BUY, 5)))

    assert results(block) == [
        *(Result.MALFORMED,) * 16,
        *(Result.QUOTA,) * 24,
        Result.OK,
    ]


# -- salts


def expected_salt(chain: Chain, block: ExecutedBlock, index: int, source: bytes) -> bytes:
    seed = encode((source, block.content.digest(chain.genesis.chain_id), index))
    return tagged_digest(Tag.EVENT_SALT, chain.genesis.chain_id, seed)[:SALT_BYTES]


def test_event_salts_differ() -> None:
    _, blocks = play_two_slots()
    events = [event for block in blocks for event in block.events]

    assert len({event.salt for event in events}) == len(events)
    assert len({event.leaf for event in events}) == len(events)


def test_salts_of_receipts_trades_and_lines_derive_from_the_members_operations() -> None:
    chain = Chain()
    blocks = chain.play_slot(FIRST)
    by_kind = {(op.body.signer, op.body.kind): op for block in blocks for op in block.operations}
    source = {"trade": "order", "settlement-line": "reading"}

    checked = 0
    for block in blocks:
        operations = iter(block.operations)
        for index, event in enumerate(block.events):
            if event.kind == "receipt":
                operation: Operation | None = next(operations)
            else:
                kind = source.get(event.kind, "")
                # b2 reports nothing: its line derives from its order.
                kind = "order" if (event.subject, kind) == ("b2", "reading") else kind
                operation = by_kind.get((event.subject, kind))
            salt = operation.body.salt if operation else b""
            assert event.salt == expected_salt(chain, block, index, salt)
            assert bool(event.subject) == (operation is not None)
            checked += 1
    assert checked > 20


def test_a_stored_event_hashes_to_its_leaf_in_the_root() -> None:
    chain = Chain()
    block = chain.block(OPENING_MS, chain.sign("b1", order(Side.BUY, 5)))
    (record,) = block.events

    again = EventRecord(record.kind, record.channel, record.subject, record.salt, record.payload)

    assert block.header.trade_root == merkle_root([block.operations[0].id, again.leaf])


# -- who signed


def test_only_a_members_own_key_and_version_are_authentic() -> None:
    chain, other = Chain(), Chain(fallback_haircut_ppm=1)
    good = chain.sign("b1", order(Side.BUY, 5))
    forged = msgspec.structs.replace(good, signature=bytes(64))
    renamed = Operation(msgspec.structs.replace(good.body, signer="b2"), good.signature)
    stranger = Operation(msgspec.structs.replace(good.body, signer="ghost"), good.signature)
    newer = chain.sign("b1", order(Side.BUY, 5), key_version=2)
    elsewhere = other.sign("b1", order(Side.BUY, 5))

    judged = [good, forged, renamed, stranger, newer, elsewhere]

    assert [chain.execution.is_authentic(each) for each in judged] == [True, *(False,) * 5]


def negotiating() -> tuple[Chain, bytes]:
    chain = Chain()
    sides = {"b1": Side.BUY, "b2": Side.BUY, "s1": Side.SELL, "s2": Side.SELL}
    orders = [chain.sign(member, order(side, 1000)) for member, side in sides.items()]
    chain.block(OPENING_MS, *orders)
    chain.block(GATE_MS)
    record = read(chain.execution.state, book_key(FIRST), BookRecord)
    assert record is not None
    return chain, record.digest


def test_two_signed_statements_that_contradict_each_other_convict_their_signer() -> None:
    chain, digest = negotiating()
    pair = [chain.sign("b1", Statement(FIRST, digest, 1, 190_000, wh)) for wh in (1, 2)]
    proof = ContradictionPayload(*map(encode, pair))

    block = chain.block(GATE_MS + 1, chain.sign("s1", proof))

    assert results(block) == [Result.OK]
    convicted = read(chain.execution.state, convicted_key(FIRST), Convicted)
    assert convicted == Convicted(("b1",))


@pytest.mark.parametrize("forgery", ["signature", "signer", "key version", "kind", "bytes"])
def test_nobody_is_convicted_by_what_it_did_not_sign(forgery: str) -> None:
    chain, digest = negotiating()
    first = chain.sign("b1", Statement(FIRST, digest, 1, 190_000, 1))
    second = chain.sign("b1", Statement(FIRST, digest, 1, 190_000, 2))
    by_s1 = chain.sign("s1", Statement(FIRST, digest, 1, 190_000, 2))
    by_s1 = msgspec.structs.replace(by_s1, body=msgspec.structs.replace(by_s1.body, signer="b1"))
    forged = {
        "signature": encode(msgspec.structs.replace(second, signature=first.signature)),
        "signer": encode(Operation(by_s1.body, second.signature)),
        "key version": encode(
            chain.sign("b1", Statement(FIRST, digest, 1, 190_000, 2), key_version=2)
        ),
        "kind": encode(chain.sign("b1", Statement(FIRST, digest, 1, 190_000, 2), kind="order")),
        "bytes": encode(second) + b"\0",
    }[forgery]

    block = chain.block(GATE_MS + 1, chain.sign("s1", ContradictionPayload(encode(first), forged)))

    assert results(block) == [Result.MALFORMED]
    assert chain.execution.state.get(convicted_key(FIRST)) is None
