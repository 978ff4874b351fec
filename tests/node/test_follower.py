"""Following the chain: blocks prove themselves, and who sends junk only costs a little time."""

from collections.abc import Sequence
from functools import cache

import msgspec
import pytest

from consensus.block import CertifiedBlock
from consensus.codec import encode
from consensus.errors import DivergedError
from node.follower import AHEAD_MAX, NEVER_MS, PULLED_AT_ONCE, Follower
from node.identity import SodiumVerifier
from node.wire import PART_BYTES_MAX, BlockPart, BlockWanted, split_block
from tests.support.certified import certified
from tests.support.street import Chain, reading

PATIENCE_MS = 300
SOURCES = ("b1", "b2", "s2")
"""Whom `s1` can ask, in this order."""


@cache
def chain_of_blocks() -> tuple[Chain, tuple[CertifiedBlock, ...]]:
    """Make 40 certified blocks; the third is too large for one part."""
    chain = Chain()
    blocks = []
    for height in range(1, 41):
        time_ms = chain.execution.header.time_ms + 1
        count = 400 if height == 3 else 1
        operations = [chain.sign("b1", reading(1, slot=height)) for _ in range(count)]
        blocks.append(certified(chain, chain.block(time_ms, *operations)))
    return chain, tuple(blocks)


CHAIN, BLOCKS = chain_of_blocks()
LARGE = BLOCKS[2]


def follower(height: int = 0, uncertified: Sequence[CertifiedBlock] = ()) -> Follower:
    return Follower(
        member="s1",
        epoch=CHAIN.genesis.epoch,
        chain_id=CHAIN.genesis.chain_id,
        verifier=SodiumVerifier(),
        height=height,
        uncertified={
            each.header.height: each.header.digest(CHAIN.genesis.chain_id) for each in uncertified
        },
        patience_ms=PATIENCE_MS,
    )


def forged(block: CertifiedBlock) -> CertifiedBlock:
    """Return a block with one endorser's signature broken."""
    certificate = block.certificate
    (member, signature), *rest = certificate.signatures
    broken = (member, bytes([signature[0] ^ 1]) + signature[1:])
    return msgspec.structs.replace(
        block,
        certificate=msgspec.structs.replace(certificate, signatures=(broken, *rest)),
    )


def take(mine: Follower, now_ms: int = 0) -> list[int]:
    """Execute every block that follows; return the heights."""
    taken = []
    while (block := mine.next_block()) is not None:
        taken.append(block.header.height)
        mine.stepped_to(block.header.height, now_ms)
    return taken


def test_next_block_is_taken() -> None:
    mine = follower()
    assert mine.offer(BLOCKS[0], 0) is None
    assert mine.next_block() == BLOCKS[0]


def test_blocks_out_of_order_wait_for_their_turn() -> None:
    mine = follower()
    assert mine.offer(BLOCKS[2], 0) is None
    assert mine.offer(BLOCKS[1], 0) is None
    assert mine.next_block() is None

    mine.offer(BLOCKS[0], 0)

    assert take(mine) == [1, 2, 3]


def test_block_is_taken_once() -> None:
    mine = follower()
    mine.offer(BLOCKS[1], 0)
    assert mine.offer(BLOCKS[1], 0) == "block already here"
    mine.offer(BLOCKS[0], 0)
    take(mine)
    assert mine.offer(BLOCKS[0], 0) == "block already here"


@pytest.mark.parametrize(
    "block",
    [
        forged(BLOCKS[0]),
        msgspec.structs.replace(
            BLOCKS[0],
            certificate=msgspec.structs.replace(
                BLOCKS[0].certificate, signatures=BLOCKS[0].certificate.signatures[:2]
            ),
        ),
        msgspec.structs.replace(BLOCKS[0], operations=BLOCKS[1].operations),
        msgspec.structs.replace(BLOCKS[0], content=BLOCKS[1].content),
        msgspec.structs.replace(BLOCKS[0], header=BLOCKS[1].header),
        msgspec.structs.replace(BLOCKS[0], certificate=BLOCKS[1].certificate),
    ],
)
def test_block_of_a_liar_is_refused_and_nobody_is_asked_for_it(block: CertifiedBlock) -> None:
    mine = follower()

    assert mine.offer(block, 0) == "block not certified"

    assert mine.next_block() is None
    assert mine.wake_ms == NEVER_MS
    assert mine.offer(BLOCKS[0], 0) is None


def test_block_of_another_chain_is_refused() -> None:
    other = Chain(phase_ms=7)
    block = certified(other, other.block(other.execution.header.time_ms))
    assert follower().offer(block, 0) == "block not certified"


def test_blocks_far_ahead_are_not_hoarded() -> None:
    mine = follower()
    assert mine.offer(BLOCKS[AHEAD_MAX - 1], 0) is None
    assert mine.offer(BLOCKS[AHEAD_MAX], 0) == "block too far ahead"


def test_nobody_is_asked_before_patience_runs_out() -> None:
    mine = follower()
    mine.note_height(1, 1000)

    assert mine.tick(1000 + PATIENCE_MS - 1) == []
    assert mine.wake_ms == 1000 + PATIENCE_MS
    assert mine.tick(1000 + PATIENCE_MS) == [("b1", BlockWanted(1, 0))]


def test_another_source_is_asked_each_time() -> None:
    mine = follower()
    mine.note_height(1, 0)
    asked = [mine.tick(turn * PATIENCE_MS)[0][0] for turn in range(1, 5)]
    assert asked == ["b1", "b2", "s2", "b1"]


def test_word_of_a_height_that_is_here_wakes_nobody() -> None:
    mine = follower(height=5)
    mine.note_height(5, 0)
    assert mine.wake_ms == NEVER_MS


def test_only_missing_blocks_are_asked_for_and_few_at_once() -> None:
    mine = follower()
    mine.note_height(30, 0)
    mine.offer(BLOCKS[1], 0)

    wanted = [wish.height for _, wish in mine.tick(PATIENCE_MS)]

    assert wanted == [1, 3, 4]
    assert len(wanted) <= PULLED_AT_ONCE


def test_catching_up_asks_on_as_soon_as_what_was_asked_for_is_here() -> None:
    mine = follower()
    mine.note_height(30, 0)
    mine.tick(PATIENCE_MS)
    for block in BLOCKS[:4]:
        mine.offer(block, 400)
    take(mine, 400)

    assert mine.wake_ms == 400
    assert [wish.height for _, wish in mine.tick(400)] == [5, 6, 7, 8]
    assert mine.wake_ms == 400 + PATIENCE_MS


def test_follower_that_has_caught_up_rests() -> None:
    mine = follower()
    mine.note_height(2, 0)
    mine.offer(BLOCKS[0], 0)
    mine.offer(BLOCKS[1], 0)
    take(mine, 10)
    assert mine.wake_ms == NEVER_MS
    assert mine.tick(10**9) == []


# -- parts ---------------------------------------------------------------------------------------


def asked(mine: Follower, height: int = 3, now_ms: int = PATIENCE_MS) -> str:
    """Let patience run out and return who was asked for the large block."""
    mine.note_height(height, now_ms - PATIENCE_MS)
    wishes = mine.tick(now_ms)
    return next(source for source, wish in wishes if wish.height == height)


def test_parts_in_order_make_a_block() -> None:
    mine = follower(height=2)
    source = asked(mine)
    parts = split_block(LARGE)
    assert len(parts) > 1

    for part in parts[:-1]:
        assert mine.receive_part(source, part, 400) == BlockWanted(3, part.part + 1)
    assert mine.receive_part(source, parts[-1], 400) is None

    assert mine.next_block() == LARGE


def test_part_out_of_order_is_refused_and_harms_nothing() -> None:
    mine = follower(height=2)
    source = asked(mine)
    first, second = split_block(LARGE)

    assert mine.receive_part(source, second, 400) == "part out of order"
    assert mine.receive_part(source, first, 400) == BlockWanted(3, 1)
    assert mine.receive_part(source, first, 400) == "part out of order"
    assert mine.receive_part(source, second, 400) is None
    assert mine.next_block() == LARGE


def test_part_of_another_split_is_refused() -> None:
    mine = follower(height=2)
    source = asked(mine)
    first, second = split_block(LARGE)
    mine.receive_part(source, first, 400)

    other = msgspec.structs.replace(second, parts=3)

    assert mine.receive_part(source, other, 400) == "part out of order"


def test_part_of_a_block_larger_than_any_is_not_wanted() -> None:
    mine = follower(height=2)
    source = asked(mine)
    part = BlockPart(3, 0, 12, bytes(PART_BYTES_MAX))
    assert mine.receive_part(source, part, 400) == "part not wanted"


def test_parts_that_nobody_asked_for_are_not_kept() -> None:
    mine = follower(height=2)
    source = asked(mine)
    part = split_block(LARGE)[0]
    other = next(each for each in SOURCES if each != source)

    assert mine.receive_part(other, part, 400) == "part not wanted"
    for height in range(4, 1000):
        far = msgspec.structs.replace(part, height=height)
        assert mine.receive_part(source, far, 400) == "part not wanted"

    assert len(mine._assemblies) == 1


def test_parts_of_a_liar_come_to_nothing_and_the_next_source_is_asked() -> None:
    mine = follower(height=2)
    source = asked(mine)

    assert mine.receive_part(source, BlockPart(3, 0, 1, b"\xc0"), 400) == "block malformed"
    (junk,) = split_block(forged(BLOCKS[3]))
    mine.note_height(4, 400)
    assert mine.receive_part(source, junk, 400) == "part not wanted"
    assert mine.receive_part(source, BlockPart(3, 0, 1, b"\xc0"), 400) == "part not wanted"

    then = asked(mine, now_ms=2 * PATIENCE_MS)
    assert then != source
    parts = split_block(LARGE)
    mine.receive_part(then, parts[0], 700)
    mine.receive_part(then, parts[1], 700)
    assert mine.next_block() == LARGE


def test_forged_block_in_parts_is_refused() -> None:
    mine = follower(height=2)
    source = asked(mine)
    first, second = split_block(forged(LARGE))
    mine.receive_part(source, first, 400)
    assert mine.receive_part(source, second, 400) == "block not certified"
    assert mine.next_block() is None


def test_slow_transfer_is_not_begun_anew_while_parts_come() -> None:
    mine = follower(height=2)
    source = asked(mine)
    first, second = split_block(LARGE)
    mine.receive_part(source, first, 2 * PATIENCE_MS - 1)

    assert mine.tick(2 * PATIENCE_MS) == []
    assert mine.wake_ms == 3 * PATIENCE_MS - 1
    assert mine.receive_part(source, second, 3 * PATIENCE_MS - 2) is None
    assert mine.next_block() == LARGE


def test_source_that_stops_half_way_is_left() -> None:
    mine = follower(height=2)
    source = asked(mine)
    mine.receive_part(source, split_block(LARGE)[0], 400)
    (wish,) = mine.tick(400 + PATIENCE_MS)
    assert wish[0] != source
    assert wish[1] == BlockWanted(3, 0)
    assert mine.receive_part(source, split_block(LARGE)[1], 750) == "part not wanted"


def test_asking_for_certificates_does_not_disturb_a_transfer() -> None:
    mine = follower(height=2, uncertified=[BLOCKS[1]])
    mine.note_height(3, 0)
    mine.tick(0)
    source = mine.tick(PATIENCE_MS)[-1][0]
    first, second = split_block(LARGE)
    mine.receive_part(source, first, 310)
    mine.executed_uncertified(2, BLOCKS[1].header.digest(CHAIN.genesis.chain_id), 10)
    mine._certificate_at_ms = 320
    assert {wish.height for _, wish in mine.tick(320)} == {2}

    assert mine.receive_part(source, second, 330) is None
    assert mine.next_block() == LARGE


# -- announcements, and certificates that come late ------------------------------------------------


def test_announced_block_is_asked_for() -> None:
    mine = follower(height=2)
    assert mine.announced(LARGE.header, LARGE.certificate, 0) is None
    assert mine.tick(PATIENCE_MS) == [("b1", BlockWanted(3, 0))]


def test_announcement_without_a_certificate_makes_nobody_ask() -> None:
    mine = follower(height=2)
    lie = forged(LARGE)
    far = msgspec.structs.replace(LARGE.header, height=2**62)

    assert mine.announced(lie.header, lie.certificate, 0) == "block not certified"
    assert mine.announced(far, LARGE.certificate, 0) == "block not certified"
    assert mine.announced(BLOCKS[0].header, BLOCKS[0].certificate, 0) == "block already here"
    assert mine.wake_ms == NEVER_MS


def test_certificate_of_an_executed_block_is_taken_from_a_peer() -> None:
    mine = follower(height=1, uncertified=[BLOCKS[0]])

    assert mine.tick(0) == [("b1", BlockWanted(1, 0))]
    assert mine.offer(BLOCKS[0], 5) is None

    assert mine.take_certificates() == [BLOCKS[0].certificate]
    assert mine.take_certificates() == []
    mine.certified(1)
    assert mine.offer(BLOCKS[0], 6) == "block already here"


def test_certificate_comes_with_an_announcement_too() -> None:
    mine = follower(height=3, uncertified=[LARGE])
    assert mine.announced(LARGE.header, LARGE.certificate, 0) is None
    assert mine.take_certificates() == [LARGE.certificate]


def test_forged_certificate_of_an_executed_block_is_refused() -> None:
    mine = follower(height=1, uncertified=[BLOCKS[0]])
    assert mine.offer(forged(BLOCKS[0]), 0) == "block not certified"
    assert mine.take_certificates() == []


def test_certificate_is_asked_for_only_after_patience() -> None:
    mine = follower()
    mine.executed_uncertified(1, bytes(32), 1000)
    mine.stepped_to(1, 1000)
    assert mine.wake_ms == 1000 + PATIENCE_MS
    mine.certified(1)
    assert mine.tick(1000 + PATIENCE_MS) == []
    assert mine.wake_ms == NEVER_MS


def test_quorum_for_another_header_than_the_executed_one_stops_the_node() -> None:
    mine = follower()
    mine.executed_uncertified(1, bytes(32), 0)
    mine.stepped_to(1, 0)
    with pytest.raises(DivergedError, match="height 1"):
        mine.offer(BLOCKS[0], 0)


def test_large_block_needs_more_than_one_part() -> None:
    assert len(encode(LARGE)) > PART_BYTES_MAX
