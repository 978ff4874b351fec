"""Genesis: one canonical file, and a chain id that every field of it changes."""

from typing import Any

import msgspec
import pytest

from consensus.codec import encode
from market.rules import Rules
from node.errors import ConfigError
from node.genesis import GENESIS_BYTES_MAX, Genesis, parse_genesis
from tests.support.street import Chain, make_rules

GENESIS = Chain().genesis
KEYS = GENESIS.keys


def changed(**changes: Any) -> Genesis:
    return msgspec.structs.replace(GENESIS, **changes)


def with_rules(**changes: Any) -> Genesis:
    return changed(rules=make_rules(keys=KEYS, **changes))


def test_genesis_survives_its_encoding() -> None:
    parsed = parse_genesis(encode(GENESIS))
    assert parsed == GENESIS
    assert parsed.chain_id == GENESIS.chain_id


@pytest.mark.parametrize(
    "data",
    [b"", b"\x90", b"wattstreet", encode(GENESIS)[:-1], encode(GENESIS) + b"\0", b"\xc1" * 100],
)
def test_what_is_no_genesis_is_refused_with_the_remedy(data: bytes) -> None:
    with pytest.raises(ConfigError, match=r"not usable.*operator"):
        parse_genesis(data)


def test_another_encoding_of_the_same_genesis_is_refused() -> None:
    data = encode(GENESIS)
    assert data[:2] == b"\x96\x01"
    longer = data[:1] + b"\xcc\x01" + data[2:]
    assert msgspec.msgpack.decode(longer, type=Genesis) == GENESIS

    with pytest.raises(ConfigError, match="canonical"):
        parse_genesis(longer)


def test_oversized_genesis_is_refused() -> None:
    with pytest.raises(ConfigError, match="bytes"):
        parse_genesis(bytes(GENESIS_BYTES_MAX + 1))


def test_genesis_of_another_protocol_version_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"protocol 2.*speaks 1"):
        parse_genesis(encode(changed(protocol_version=2)))


def test_genesis_with_an_unknown_mechanism_is_refused_and_says_which_there_are() -> None:
    with pytest.raises(ConfigError, match=r"'lottery'.*two-level"):
        parse_genesis(encode(with_rules(mechanism="lottery")))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_genesis_with_fewer_than_four_endorsers_is_refused(count: int) -> None:
    with pytest.raises(ConfigError, match="at least 4"):
        parse_genesis(encode(changed(endorsers=GENESIS.endorsers[:count])))


@pytest.mark.parametrize("order", [(1, 0, 2, 3), (0, 0, 1, 2), (3, 2, 1, 0)])
def test_genesis_with_endorsers_out_of_order_or_twice_is_refused(order: tuple[int, ...]) -> None:
    endorsers = tuple(GENESIS.endorsers[index] for index in order)
    with pytest.raises(ConfigError, match="distinct"):
        parse_genesis(encode(changed(endorsers=endorsers)))


def test_member_with_two_keys_is_refused() -> None:
    member, key = GENESIS.endorsers[0]
    other = (member, bytes(32))
    assert key != bytes(32)
    data = encode(GENESIS).replace(encode((member, key)), encode(other))
    assert data != encode(GENESIS)

    with pytest.raises(ConfigError, match=f"{member} has another key"):
        parse_genesis(data)


@pytest.mark.parametrize("name", ["", "Demo", "-demo", "demo\n", "a" * 33, "straße"])
def test_name_that_no_topic_can_bear_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="not usable"):
        parse_genesis(encode(changed(community=name)))


CHANGES = [
    changed(protocol_version=2),
    changed(community="other"),
    changed(endorsers=(*GENESIS.endorsers[:3], ("z9", bytes(32)))),
    *(
        changed(clock=msgspec.structs.replace(GENESIS.clock, **{name: 7}))
        for name in GENESIS.clock.__struct_fields__
    ),
    *(
        changed(consensus=msgspec.structs.replace(GENESIS.consensus, **{name: 7}))
        for name in GENESIS.consensus.__struct_fields__
    ),
    with_rules(mechanism="two-level-paper"),
    with_rules(currency="USD"),
    with_rules(phase_ms=999),
    with_rules(relay_step_ms=999),
    with_rules(fallback_haircut_ppm=1),
    *(
        with_rules(quotas=msgspec.structs.replace(GENESIS.rules.quotas, **change))
        for change in ({"operations": 15}, {"operation_bytes": 2048})
    ),
    *(
        with_rules(fees=msgspec.structs.replace(GENESIS.rules.fees, **{name: 7}))
        for name in GENESIS.rules.fees.__struct_fields__
    ),
    *(
        with_rules(
            calendar=msgspec.structs.replace(
                GENESIS.rules.calendar,
                **{name: getattr(GENESIS.rules.calendar, name) + 1},
            )
        )
        for name in GENESIS.rules.calendar.__struct_fields__
    ),
    with_rules(households=GENESIS.rules.households[:-1]),
]


def test_every_field_changes_the_chain_id() -> None:
    ids = [GENESIS.chain_id, *(each.chain_id for each in CHANGES)]
    assert len(set(ids)) == len(ids)
    assert {len(each) for each in ids} == {32}


def test_no_field_of_genesis_is_forgotten_above() -> None:
    assert set(Genesis.__struct_fields__) == {
        "protocol_version",
        "community",
        "clock",
        "consensus",
        "rules",
        "endorsers",
    }
    assert set(Rules.__struct_fields__) == {
        "currency",
        "calendar",
        "tariffs",
        "fees",
        "mechanism",
        "fallback_haircut_ppm",
        "phase_ms",
        "relay_step_ms",
        "quotas",
        "households",
    }


def test_durations_of_consensus_scale_with_the_clock() -> None:
    fast = changed(clock=msgspec.structs.replace(GENESIS.clock, speed=1800))

    assert GENESIS.timing.batch_wait_ms == 20
    assert fast.timing.batch_wait_ms == 20 * 1800
    assert fast.timing.resend_ms == 150 * 1800
    assert fast.timing.clock_ahead_ms == 250 * 1800


def test_block_zero_follows_from_genesis_alone() -> None:
    header = GENESIS.header(bytes(32))

    assert (header.height, header.epoch, header.time_ms) == (0, 0, GENESIS.clock.origin_ms)
    assert header.endorsers == header.next_endorsers == GENESIS.epoch.digest(GENESIS.chain_id)
