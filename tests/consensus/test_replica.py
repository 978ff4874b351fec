"""At least one test for each rule that `consensus.replica` names, on one replica.

`a` is the primary of view 0; most tests look at the backup `b`, whose peers are played by ballots.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import msgspec
import pytest

from consensus.block import Certificate, CertifiedBlock, Content
from consensus.certificate import verify_certificate
from consensus.effects import DurableVote, Effects, Pull
from consensus.errors import DivergedError, LocalProtocolError
from consensus.membership import Epoch
from consensus.messages import Commit, Message, Prepare, PrePrepare
from consensus.operation import EXPIRY_MS_MAX, OPERATION_BYTES_MAX, Operation
from consensus.replica import (
    CHECKPOINT_INTERVAL,
    LOG_SIZE,
    NEVER_MS,
    PIPELINE_MAX,
    Executed,
    Replica,
)
from node.identity import Identity, SodiumVerifier
from tests.support.replicas import (
    CHAIN_ID,
    START_MS,
    TIMING,
    Executor,
    FakeSigner,
    FakeVerifier,
    Member,
    Sent,
    ballot_of,
    epoch_of,
    make_operation,
)

NOW = START_MS
ANN, BOB = make_operation("ann", 1), make_operation("bob", 1)
GENESIS = Executed(0, bytes(32), 0)


def replica_of(
    member: str = "b",
    *,
    epoch: Epoch | None = None,
    executed: Executed = GENESIS,
    uncertified: Mapping[int, bytes] | None = None,
    votes: Iterable[DurableVote] = (),
    verifier: FakeVerifier | None = None,
) -> Replica:
    return Replica(
        member=member,
        epoch=epoch or epoch_of(4),
        chain_id=CHAIN_ID,
        signer=FakeSigner(member),
        verifier=verifier or FakeVerifier(),
        timing=TIMING,
        executed=executed,
        uncertified=uncertified,
        votes=votes,
    )


def content_of(*operations: Operation, sequence: int = 1, time_ms: int = NOW) -> Content:
    return Content(0, sequence, time_ms, tuple(each.id for each in operations))


def proposal(content: Content) -> PrePrepare:
    return ballot_of("a").pre_prepare(0, content)


def prepares(content: Content, members: Iterable[str]) -> list[Prepare]:
    digest = content.digest(CHAIN_ID)
    return [ballot_of(each).prepare(0, 0, content.sequence, digest) for each in members]


def commits(content: Content, members: Iterable[str]) -> list[Commit]:
    digest = content.digest(CHAIN_ID)
    return [ballot_of(each).commit(0, 0, content.sequence, digest) for each in members]


def hear(replica: Replica, *messages: Message, now_ms: int = NOW) -> Effects:
    """Let a replica receive messages; return all that it asked for."""
    every = Effects()
    for message in messages:
        add(every, replica.receive(message, now_ms))
    return every


def add(every: Effects, effects: Effects) -> None:
    for name in ("persist", "broadcast", "pull", "certified", "rejected", "evidence"):
        getattr(every, name).extend(getattr(effects, name))
    assert every.execute is None or effects.execute is None, "one block at a time"
    every.execute = effects.execute or every.execute
    every.discard_through = effects.discard_through or every.discard_through


def kinds(effects: Effects) -> list[type]:
    return [type(each) for each in effects.broadcast]


def rules(effects: Effects) -> list[str]:
    return [each.rule for each in effects.rejected]


def anatomy(thing: Any) -> Any:
    """Take a replica apart into plain values, to compare before and after, and to weigh."""
    if isinstance(thing, dict):
        return tuple(sorted((repr(key), anatomy(value)) for key, value in thing.items()))
    if isinstance(thing, list | tuple):
        return tuple(anatomy(each) for each in thing)
    if isinstance(thing, set):
        return tuple(sorted(thing))
    if is_dataclass(thing):
        return tuple(anatomy(getattr(thing, each.name)) for each in fields(thing))
    if isinstance(thing, msgspec.Struct) or not hasattr(thing, "__dict__"):
        return repr(thing)
    return anatomy({key: each for key, each in vars(thing).items() if key != "_verifier"})


def weight(thing: Any) -> int:
    return 1 + sum(map(weight, thing)) if isinstance(thing, tuple) else 1


# Refusals: each leaves the replica as it was, and the cheap ones cost no signature (S4).

CONTENT = content_of(ANN)
OTHER = content_of(BOB)
FORGED = bytes(64)


def forged(message: Message) -> Message:
    return msgspec.structs.replace(message, signature=FORGED)


REFUSALS: dict[str, tuple[Message, str]] = {
    "own PREPARE": (prepares(OTHER, "b")[0], "Q4 own message came back"),
    "own COMMIT": (commits(CONTENT, "b")[0], "Q4 own message came back"),
    "stranger's PREPARE": (prepares(CONTENT, "x")[0], "Q4 not an endorser"),
    "stranger's COMMIT": (commits(CONTENT, "x")[0], "Q4 not an endorser"),
    "stranger's CHECKPOINT": (
        ballot_of("x").checkpoint(0, 1, bytes(32)),
        "Q4 not an endorser",
    ),
    "another epoch's vote": (ballot_of("c").prepare(1, 0, 1, bytes(32)), "Q4 other epoch"),
    "another epoch's CHECKPOINT": (ballot_of("c").checkpoint(1, 1, bytes(32)), "Q4 other epoch"),
    "content of another epoch": (
        msgspec.structs.replace(
            proposal(msgspec.structs.replace(CONTENT, epoch=1, sequence=2)), epoch=0
        ),
        "N1 content of another epoch",
    ),
    "another view's proposal": (
        ballot_of("b").pre_prepare(1, CONTENT),
        "Q4 own message came back",
    ),
    "a later view's proposal": (ballot_of("c").pre_prepare(2, CONTENT), "N1 other view"),
    "a later view's vote": (ballot_of("c").commit(0, 1, 1, bytes(32)), "N1 other view"),
    "a backup's proposal": (ballot_of("c").pre_prepare(0, CONTENT), "N1 not from the primary"),
    "one operation twice": (
        proposal(content_of(ANN, ANN, sequence=2)),
        "N1 an operation twice",
    ),
    "a time ahead": (
        proposal(content_of(ANN, sequence=2, time_ms=NOW + TIMING.clock_ahead_ms + 1)),
        "T1 proposed time ahead of the clock",
    ),
    "above the window": (
        proposal(content_of(ANN, sequence=LOG_SIZE + 1)),
        "K1 outside the watermarks",
    ),
    "a vote far above the window": (
        ballot_of("c").prepare(0, 0, 2**63 - 1, bytes(32)),
        "K1 outside the watermarks",
    ),
    "the primary's PREPARE": (prepares(CONTENT, "a")[0], "Q2 PREPARE from the primary"),
    "the same proposal": (proposal(CONTENT), "Q3 nothing new"),
    "the same PREPARE": (prepares(CONTENT, "c")[0], "Q3 nothing new"),
    "the same COMMIT": (commits(CONTENT, "c")[0], "Q3 nothing new"),
    "the same CHECKPOINT": (ballot_of("c").checkpoint(0, 1, bytes(32)), "Q3 nothing new"),
    "forged proposal": (forged(proposal(content_of(ANN, sequence=2))), "S1 signature"),
    "forged contradiction": (forged(proposal(OTHER)), "S1 signature"),
    "forged PREPARE": (forged(prepares(CONTENT, "d")[0]), "S1 signature"),
    "forged second PREPARE": (forged(prepares(OTHER, "c")[0]), "S1 signature"),
    "forged COMMIT": (forged(commits(CONTENT, "d")[0]), "S1 signature"),
    "forged CHECKPOINT": (forged(ballot_of("d").checkpoint(0, 1, bytes(32))), "S1 signature"),
    "another member's signature": (
        msgspec.structs.replace(prepares(CONTENT, "c")[0], member="d"),
        "S1 signature",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refused_message_changes_nothing(case: str) -> None:
    message, rule = REFUSALS[case]
    verifier = FakeVerifier()
    replica = replica_of(verifier=verifier)
    replica.admit(ANN, NOW)
    hear(replica, proposal(CONTENT), *prepares(CONTENT, "c"), *commits(CONTENT, "c"))
    hear(replica, ballot_of("c").checkpoint(0, 1, bytes(32)))
    before, calls = anatomy(replica), verifier.calls

    effects = hear(replica, message)

    assert rules(effects) == [rule]
    assert (effects.persist, effects.broadcast, effects.evidence) == ([], [], [])
    assert effects.execute is None
    assert anatomy(replica) == before
    assert verifier.calls - calls == (1 if rule.startswith("S1") else 0)


def test_what_is_executed_is_refused_without_a_signature_check() -> None:
    verifier = FakeVerifier()
    replica = replica_of(verifier=verifier)
    agree(replica, content_of(time_ms=NOW))
    before, calls = anatomy(replica), verifier.calls

    late: list[Message] = [proposal(OTHER), *prepares(OTHER, "c"), *commits(OTHER, "c")]
    effects = hear(replica, *late)

    assert rules(effects) == ["N6 already executed"] * 3
    assert anatomy(replica) == before
    assert verifier.calls == calls


def agree(replica: Replica, content: Content, *, certified: bool = False) -> Effects:
    """Take a backup through all phases of one block; return what it asked for at the end."""
    effects = hear(
        replica,
        proposal(content),
        *prepares(content, "cd" if replica.member == "b" else "bcd"),
        *commits(content, "acd"),
    )
    assert effects.execute is not None
    header = content.digest(CHAIN_ID)
    last = replica.executed(content.sequence, header, content.time_ms, NOW)
    if certified:
        for member in "acd":
            add(last, hear(replica, ballot_of(member).checkpoint(0, content.sequence, header)))
    return last


# N1


def test_a_proposal_ahead_of_the_clock_is_taken_when_it_comes_again() -> None:
    replica = replica_of()
    early = proposal(content_of(time_ms=NOW + TIMING.clock_ahead_ms + 1))
    assert rules(hear(replica, early)) == ["T1 proposed time ahead of the clock"]

    effects = hear(replica, early, now_ms=NOW + 1)

    assert kinds(effects) == [Prepare]


def test_a_late_proposal_is_taken() -> None:
    assert kinds(hear(replica_of(), proposal(content_of()), now_ms=NOW + 10**9)) == [Prepare]


def test_a_second_content_for_a_sequence_number_is_evidence() -> None:
    replica = replica_of()
    first, second = proposal(content_of()), proposal(content_of(time_ms=NOW + 1))
    hear(replica, first)

    effects = hear(replica, second)

    assert [(each.first, each.second) for each in effects.evidence] == [(first, second)]
    assert effects.broadcast == []


def test_the_same_content_under_another_signature_is_no_evidence() -> None:
    """A signer can make many signatures of one message; only another content contradicts."""
    replica = replica_of()
    hear(replica, proposal(content_of()), *prepares(content_of(), "c"))

    effects = hear(replica, forged(proposal(content_of())), forged(prepares(content_of(), "c")[0]))

    assert (effects.evidence, effects.broadcast) == ([], [])


@pytest.mark.parametrize(
    ("operation", "rule"),
    [
        (make_operation("ann", 1, expires_ms=NOW - 1), "N1 operation not timely"),
        (make_operation("ann", 1, expires_ms=NOW + EXPIRY_MS_MAX + 1), "N1 operation not timely"),
    ],
    ids=["expired", "far future"],
)
def test_a_proposal_with_an_untimely_operation_is_refused_for_good(
    operation: Operation, rule: str
) -> None:
    replica = replica_of()
    hear(replica, proposal(content_of(operation)))

    effects = replica.admit(operation, NOW)
    later = hear(replica, *prepares(content_of(operation), "cd"))

    assert rules(effects) == [rule]
    assert (effects.broadcast, later.broadcast, rules(later)) == ([], [], [])


def test_a_proposal_larger_than_a_block_is_refused() -> None:
    replica = replica_of()
    large = [
        make_operation(f"s{index}", 1, payload=bytes(OPERATION_BYTES_MAX - 256))
        for index in range(9)
    ]
    for operation in large:
        replica.admit(operation, NOW)

    effects = hear(replica, proposal(content_of(*large)))

    assert rules(effects) == ["N1 larger than a block"]
    assert effects.broadcast == []


def test_an_operation_is_judged_by_the_proposal_s_time_not_by_its_arrival() -> None:
    replica = replica_of()
    operation = make_operation("ann", 1, expires_ms=NOW)
    hear(replica, proposal(content_of(operation)))
    assert replica.wants(operation.id)

    effects = replica.admit(operation, NOW + 10_000)

    assert kinds(effects) == [Prepare]


# N2, N3, N4


def test_votes_for_another_content_do_not_count() -> None:
    replica = replica_of()

    effects = hear(replica, proposal(content_of()), *prepares(content_of(time_ms=NOW + 1), "cd"))

    assert kinds(effects) == [Prepare]


def test_one_prepare_and_one_commit_are_sent_whatever_comes() -> None:
    replica = replica_of()
    content = content_of()
    words: list[Message] = [
        proposal(content),
        *prepares(content, "cd"),
        *commits(content, "acd"),
    ]

    effects = hear(replica, *words, *words)

    assert kinds(effects) == [Prepare, Commit]


def test_every_vote_is_persisted_with_what_it_rests_on() -> None:
    replica = replica_of()
    replica.admit(ANN, NOW)
    first = hear(replica, proposal(CONTENT))
    second = hear(replica, *prepares(CONTENT, "d"))

    assert first.persist == [DurableVote(first.broadcast[0], (proposal(CONTENT),), (ANN,))]
    certificate: tuple[Message, ...] = (proposal(CONTENT), *prepares(CONTENT, "bd"))
    assert second.persist == [DurableVote(second.broadcast[0], certificate)]


def test_no_commit_before_prepared() -> None:
    replica = replica_of()

    assert kinds(hear(replica, proposal(content_of()))) == [Prepare]
    assert kinds(hear(replica, *commits(content_of(), "acd"))) == []
    assert kinds(hear(replica, *prepares(content_of(), "c"))) == [Commit]


def test_commits_alone_execute_nothing() -> None:
    replica = replica_of()

    assert hear(replica, *commits(content_of(), "acd"), proposal(content_of())).execute is None
    assert hear(replica, *prepares(content_of(), "c")).execute is not None


def test_a_quorum_of_commits_is_needed() -> None:
    replica = replica_of(epoch=epoch_of(7))
    content = content_of()
    hear(replica, proposal(content), *prepares(content, "cdef"))

    assert hear(replica, *commits(content, "acd")).execute is None
    assert hear(replica, *commits(content, "e")).execute is not None


# N5


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_prepares_count_in_any_order_with_the_proposal(order: tuple[int, ...]) -> None:
    replica = replica_of(epoch=epoch_of(5))
    words: list[Message] = [proposal(content_of()), *prepares(content_of(), "cde")]

    effects = hear(replica, *(words[index] for index in order))

    assert kinds(effects) == [Prepare, Commit]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_commits_count_in_any_order_with_the_proposal(order: tuple[int, ...]) -> None:
    replica = replica_of()
    words: list[Message] = [proposal(content_of()), *commits(content_of(), "acd")]

    early = hear(replica, *prepares(content_of(), "cd"))
    effects = hear(replica, *(words[index] for index in order))

    assert early.broadcast == []
    assert kinds(effects) == [Prepare, Commit]
    assert effects.execute is not None


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_the_primary_counts_votes_in_any_order(order: tuple[int, ...]) -> None:
    replica = replica_of("a")
    replica.admit(ANN, NOW)
    proposed = replica.tick(NOW + TIMING.batch_wait_ms).broadcast[0]
    assert isinstance(proposed, PrePrepare)
    words: list[Message] = [
        *prepares(proposed.content, "bc"),
        *commits(proposed.content, "bc"),
    ]

    effects = hear(replica, *(words[index] for index in order))

    assert kinds(effects) == [Commit]
    assert effects.execute is not None


# N6


def test_execution_keeps_to_the_sequence() -> None:
    replica = replica_of()
    first, second = content_of(sequence=1), content_of(sequence=2)
    for content in (second, first):
        hear(replica, proposal(content), *prepares(content, "cd"))

    assert hear(replica, *commits(second, "acd")).execute is None
    ordered = hear(replica, *commits(first, "acd")).execute
    assert ordered is not None
    assert ordered.content == first
    following = replica.executed(1, bytes(32), NOW, NOW).execute
    assert following is not None
    assert following.content == second


def test_a_block_is_handed_out_once() -> None:
    replica = replica_of()
    content = content_of()
    hear(replica, proposal(content), *prepares(content, "cd"), *commits(content, "ac"))

    again = [hear(replica, *commits(content, "d")), replica.tick(NOW), replica.admit(ANN, NOW)]

    assert all(each.execute is None for each in again)


@pytest.mark.parametrize("height", [0, 2])
def test_the_caller_may_not_skip_or_repeat_a_height(height: int) -> None:
    replica = replica_of()

    with pytest.raises(LocalProtocolError):
        replica.executed(height, bytes(32), NOW, NOW)
    with pytest.raises(LocalProtocolError):
        replica.settle(1)


# N7


def test_missing_bodies_are_asked_of_one_member_after_another() -> None:
    replica = replica_of()
    effects = hear(replica, proposal(CONTENT))
    asked, now_ms = effects.pull, NOW

    for _ in range(3):
        now_ms = replica.wake_ms
        asked += replica.tick(now_ms).pull

    assert asked == [Pull(member, (ANN.id,)) for member in "acda"]
    assert (effects.persist, effects.broadcast) == ([], [])


def test_a_body_is_given_out_until_its_block_is_garbage() -> None:
    replica = replica_of()
    replica.admit(ANN, NOW)
    agree(replica, CONTENT, certified=True)
    for sequence in range(2, CHECKPOINT_INTERVAL):
        agree(replica, content_of(sequence=sequence), certified=True)
    assert replica.operations([ANN.id, BOB.id]) == (ANN,)

    agree(replica, content_of(sequence=CHECKPOINT_INTERVAL), certified=True)

    assert replica.operations([ANN.id]) == ()


def test_one_operation_in_two_blocks_under_way_is_there_for_both() -> None:
    replica = replica_of()
    replica.admit(ANN, NOW)
    second = content_of(ANN, sequence=2)
    hear(replica, proposal(second), *prepares(second, "cd"), *commits(second, "acd"))

    following = agree(replica, CONTENT).execute

    assert following is not None
    assert following.operations == (ANN,)


# N8, and what the primary may do


def propose(replica: Replica, *operations: Operation, now_ms: int = NOW) -> list[PrePrepare]:
    found: list[Message] = []
    for operation in operations:
        found += replica.admit(operation, now_ms).broadcast
    found += replica.tick(now_ms + TIMING.batch_wait_ms).broadcast
    return [each for each in found if isinstance(each, PrePrepare)]


def test_a_restarted_primary_goes_on_after_what_it_proposed() -> None:
    before = replica_of("a")
    before.admit(ANN, NOW)
    persisted = before.tick(NOW + TIMING.batch_wait_ms).persist

    after = replica_of("a", votes=persisted)
    again = after.tick(NOW + 10_000)
    proposed = propose(after, BOB, now_ms=NOW + 10_000)

    assert again.broadcast == [persisted[0].vote]
    assert [each.sequence for each in proposed] == [2]
    assert proposed[0].content.operation_ids == (BOB.id,)


def test_a_primary_that_adopted_a_block_proposes_above_it() -> None:
    replica = replica_of("a")
    replica.adopt(block_of(1, ANN))

    proposed = propose(replica, BOB)

    assert [each.sequence for each in proposed] == [2]


def test_a_primary_keeps_few_proposals_under_way() -> None:
    replica = replica_of("a")

    proposed = [
        each
        for nonce in range(1, 10)
        for each in propose(replica, make_operation("ann", nonce), now_ms=NOW + nonce * 100)
    ]

    assert max(each.sequence for each in proposed) == PIPELINE_MAX
    assert replica.wake_ms > 0


def test_a_primary_proposes_nothing_above_the_window() -> None:
    replica = replica_of("a", executed=Executed(0, bytes(32), 0))
    for sequence in range(1, LOG_SIZE + 1):
        replica.admit(make_operation("ann", sequence), NOW)
        (message,) = (
            each
            for each in replica.tick(NOW + sequence * 1_000).broadcast
            if isinstance(each, PrePrepare) and each.sequence == sequence
        )
        content = message.content
        hear(replica, *prepares(content, "bc"), *commits(content, "bc"), now_ms=NOW)
        replica.executed(sequence, bytes([sequence]) * 32, content.time_ms, NOW)

    assert replica.stable == 0
    proposed = propose(replica, BOB, now_ms=NOW + 100_000)
    assert max(each.sequence for each in proposed) == LOG_SIZE
    assert replica.high == LOG_SIZE
    assert BOB.id in replica.pool


def test_a_backup_proposes_nothing() -> None:
    replica = replica_of()
    replica.expect(NOW)

    assert propose(replica, ANN) == []
    assert replica.wake_ms == NEVER_MS


def test_an_expected_block_is_owed_once_and_even_empty() -> None:
    replica = replica_of("a")
    replica.expect(NOW + 50)
    assert replica.wake_ms == NOW + 50
    assert replica.tick(NOW + 49).broadcast == []

    (proposed,) = replica.tick(NOW + 50).broadcast

    assert isinstance(proposed, PrePrepare)
    assert (proposed.content.time_ms, proposed.content.operation_ids) == (NOW + 50, ())
    assert [type(each) for each in replica.tick(NOW + 60).broadcast] == []


def test_proposed_times_never_go_back() -> None:
    replica = replica_of("a", executed=Executed(0, bytes(32), NOW + 500))

    (proposed,) = propose(replica, ANN)

    assert proposed.content.time_ms == NOW + 500


def test_a_full_batch_does_not_wait() -> None:
    replica = replica_of("a")
    sent = [
        each
        for signer in range(10)
        for nonce in range(1, 51)
        for each in replica.admit(make_operation(f"s{signer}", nonce), NOW).broadcast
    ]

    assert [type(each) for each in sent] == [PrePrepare]
    assert isinstance(sent[0], PrePrepare)
    assert len(sent[0].content.operation_ids) == 500


# Q2, Q3, Q4


@pytest.mark.parametrize("size", [4, 5, 6, 7])
def test_prepared_needs_a_quorum_less_one_of_backups(size: int) -> None:
    epoch = epoch_of(size)
    replica = replica_of(epoch=epoch)
    content = content_of()
    backups = [each for each in epoch.members if each not in ("a", "b")]
    needed = epoch.quorum - 2
    hear(replica, proposal(content), *prepares(content, "a"))

    early = hear(replica, *prepares(content, backups[: needed - 1]))
    last = hear(replica, *prepares(content, backups[needed - 1 : needed]))

    assert kinds(early) == []
    assert kinds(last) == [Commit]


def test_one_member_s_vote_counts_once() -> None:
    replica = replica_of(epoch=epoch_of(7))
    content = content_of()

    effects = hear(replica, proposal(content), *prepares(content, "ccccc"), *commits(content, "cc"))

    assert kinds(effects) == [Prepare]
    assert rules(effects) == ["Q3 nothing new"] * 5


@pytest.mark.parametrize("kind", [prepares, commits])
def test_a_contradicting_vote_is_evidence_once_and_never_counts(
    kind: Callable[[Content, Iterable[str]], list[Prepare] | list[Commit]],
) -> None:
    verifier = FakeVerifier()
    replica = replica_of(verifier=verifier)
    one, other, third = (content_of(time_ms=NOW + each) for each in range(3))
    hear(replica, *kind(other, "c"))

    effects = hear(replica, *kind(one, "c"))
    calls = verifier.calls
    again = hear(replica, *kind(third, "c"), *kind(one, "c"))

    assert [(each.first, each.second) for each in effects.evidence] == [
        (kind(other, "c")[0], kind(one, "c")[0])
    ]
    assert rules(effects) == ["Q3 contradiction"]
    assert (again.evidence, verifier.calls) == ([], calls)
    assert kinds(hear(replica, proposal(one))) == [Prepare]


def test_a_contradicting_checkpoint_is_evidence() -> None:
    replica = replica_of()
    first, second = (ballot_of("c").checkpoint(0, 1, bytes([each]) * 32) for each in range(2))

    effects = hear(replica, first, second)

    assert [(each.first, each.second) for each in effects.evidence] == [(first, second)]


def test_the_own_vote_counts_once_though_the_broker_echoes_it() -> None:
    replica = replica_of(epoch=epoch_of(7))
    content = content_of()
    (own,) = hear(replica, proposal(content)).broadcast

    effects = hear(replica, own, own, *prepares(content, "cd"))

    assert kinds(effects) == []
    assert kinds(hear(replica, *prepares(content, "e"))) == [Commit]


# C6, C5


def test_a_flooder_delays_another_signer_by_no_block() -> None:
    replica = replica_of("a")
    for nonce in range(1, 1_000):
        replica.admit(make_operation("flood", nonce), NOW)
    replica.admit(ANN, NOW)

    (proposed,) = propose(replica)

    assert ANN.id in proposed.content.operation_ids[:2]


def test_an_expired_operation_is_not_proposed_and_wakes_nobody() -> None:
    replica = replica_of("a")
    expired = make_operation("ann", 1, expires_ms=NOW)

    assert propose(replica, expired, now_ms=NOW) == []
    assert expired.id not in replica.pool
    assert replica.wake_ms == NEVER_MS


# K1, K2, K3


def test_a_proposal_above_the_window_is_taken_when_the_window_has_moved() -> None:
    replica = replica_of()
    above = proposal(content_of(sequence=LOG_SIZE + 1))
    assert rules(hear(replica, above)) == ["K1 outside the watermarks"]

    for sequence in range(1, CHECKPOINT_INTERVAL + 1):
        agree(replica, content_of(sequence=sequence), certified=True)

    assert kinds(hear(replica, above)) == [Prepare]


def test_a_quorum_of_checkpoints_is_a_certificate_that_holds() -> None:
    replica = replica_of()
    executor = Executor(epoch_of(4))
    content = content_of()
    hear(replica, proposal(content), *prepares(content, "cd"), *commits(content, "acd"))
    header = executor.execute(content, ()).header
    replica.executed(1, header.digest(CHAIN_ID), NOW, NOW)

    votes = [ballot_of(each).checkpoint(0, 1, header.digest(CHAIN_ID)) for each in "dc"]
    assert hear(replica, votes[0]).certified == []
    (certificate,) = hear(replica, votes[1]).certified

    verify_certificate(
        certificate, header, epoch=epoch_of(4), chain_id=CHAIN_ID, verifier=FakeVerifier()
    )
    assert replica.stable == 1


def test_checkpoints_that_come_before_execution_count_after_it() -> None:
    replica = replica_of()
    content = content_of()
    header = content.digest(CHAIN_ID)
    early = hear(replica, *(ballot_of(each).checkpoint(0, 1, header) for each in "acd"))

    effects = agree(replica, content)

    assert early.certified == []
    assert [each.height for each in effects.certified] == [1]
    assert effects.broadcast, "others may still need this replica's word"


def test_a_quorum_for_another_header_halts_the_replica() -> None:
    replica = replica_of()
    agree(replica, content_of())
    wrong = [ballot_of(each).checkpoint(0, 1, bytes(32)) for each in "acd"]
    hear(replica, *wrong[:2])

    with pytest.raises(DivergedError, match="height 1"):
        hear(replica, wrong[2])


def test_a_quorum_for_another_header_before_execution_halts_at_execution() -> None:
    replica = replica_of()
    hear(replica, *(ballot_of(each).checkpoint(0, 1, bytes(32)) for each in "acd"))

    with pytest.raises(DivergedError, match="height 1"):
        agree(replica, content_of())


def test_a_gap_in_the_certificates_holds_the_low_watermark() -> None:
    replica = replica_of()
    agree(replica, content_of(sequence=1))
    for sequence in range(2, CHECKPOINT_INTERVAL + 1):
        effects = agree(replica, content_of(sequence=sequence), certified=True)
    assert (replica.stable, replica.high) == (0, LOG_SIZE)
    assert effects.discard_through is None

    settled = replica.settle(1)

    assert (replica.stable, replica.high) == (CHECKPOINT_INTERVAL, CHECKPOINT_INTERVAL + LOG_SIZE)
    assert settled.discard_through == CHECKPOINT_INTERVAL
    assert replica.wake_ms == NEVER_MS


def test_a_restart_remembers_which_certificates_are_missing() -> None:
    replica = replica_of(executed=Executed(9, bytes(32), NOW), uncertified={7: bytes(32)})

    assert (replica.height, replica.stable, replica.high) == (9, 6, LOG_SIZE)
    (repeated,) = replica.tick(NOW + 10_000).broadcast
    assert repeated == ballot_of("b").checkpoint(0, 7, bytes(32))
    assert replica.settle(7).discard_through == 8
    assert replica.stable == 9


def test_votes_for_certified_heights_are_not_taken_up_again() -> None:
    persisted = hear(replica_of(), proposal(content_of())).persist

    replica = replica_of(executed=Executed(1, bytes(32), NOW), votes=persisted)

    assert replica.tick(NOW + 10_000) == Effects()


def test_nothing_grows_over_many_blocks() -> None:
    replica = replica_of()
    weights = set()

    for sequence in range(1, 801):
        operation = make_operation(f"s{sequence}", 1)
        replica.admit(operation, NOW)
        hear(replica, ballot_of("d").prepare(0, 0, sequence + 1, bytes(32)))
        agree(replica, content_of(operation, sequence=sequence), certified=True)
        if sequence % CHECKPOINT_INTERVAL == 0:
            weights.add(weight(anatomy(replica)))

    assert len(weights) == 1
    assert len(replica.pool) == 0


def test_nothing_grows_while_a_member_adopts() -> None:
    replica = replica_of()
    weights = set()

    for sequence in range(1, 401):
        operation = make_operation(f"s{sequence}", 1)
        replica.admit(operation, NOW)
        hear(
            replica,
            *prepares(content_of(sequence=sequence), "cd"),
            ballot_of("c").checkpoint(0, sequence, bytes(32)),
        )
        replica.adopt(block_of(sequence, operation))
        if sequence % CHECKPOINT_INTERVAL == 0:
            weights.add(weight(anatomy(replica)))

    assert len(weights) == 1
    assert len(replica.pool) == 0


def test_operations_that_nobody_orders_leave_a_backup_when_they_expire() -> None:
    replica = replica_of()
    replica.admit(make_operation("ann", 1, expires_ms=NOW - 1), NOW - 100)

    agree(replica, content_of())

    assert len(replica.pool) == 0


# Adopting and settling


def block_of(height: int, *operations: Operation) -> CertifiedBlock:
    """Make a block as `node.follower` would hand it over, verified."""
    content = content_of(*operations, sequence=height)
    executor = Executor(epoch_of(4))
    executor.height = height - 1
    block = executor.execute(content, operations)
    empty = Certificate(0, height, block.header.digest(CHAIN_ID), ())
    return CertifiedBlock(block.header, content, empty, operations)


def test_adopting_a_block_goes_on_with_what_is_agreed_above_it() -> None:
    replica = replica_of()
    second = content_of(sequence=2)
    hear(replica, proposal(second), *prepares(second, "cd"), *commits(second, "acd"))

    effects = replica.adopt(block_of(1))

    assert effects.execute is not None
    assert effects.execute.content == second
    assert (replica.height, replica.stable) == (1, 1)


def test_adopting_another_content_than_the_one_accepted_is_possible() -> None:
    """The primary equivocated, and a quorum saw the other proposal."""
    replica = replica_of()
    replica.admit(ANN, NOW)
    hear(replica, proposal(CONTENT))

    replica.adopt(block_of(1, BOB))

    assert replica.tick(NOW + 10_000).broadcast == []
    assert rules(hear(replica, *prepares(CONTENT, "cd"))) == ["N6 already executed"] * 2


def test_an_adopted_block_ends_the_wait_of_its_operations() -> None:
    replica = replica_of("a")
    replica.admit(ANN, NOW)

    replica.adopt(block_of(1, ANN))

    assert ANN.id not in replica.pool
    assert propose(replica) == []


# Repetition


def test_what_is_said_is_repeated_at_growing_intervals_until_certified() -> None:
    replica = replica_of()
    hear(replica, proposal(content_of()))
    waits, last_ms = [], NOW

    for _ in range(6):
        now_ms = replica.wake_ms
        assert kinds(replica.tick(now_ms)) == [Prepare]
        waits.append(now_ms - last_ms)
        last_ms = now_ms

    assert waits == [TIMING.resend_ms * each for each in (1, 2, 4, 8, 8, 8)]


def test_progress_makes_repetition_prompt_again() -> None:
    replica = replica_of()
    hear(replica, proposal(content_of()))
    for _ in range(4):
        replica.tick(replica.wake_ms)

    hear(replica, *prepares(content_of(), "cd"), now_ms=NOW + 50_000)

    assert replica.wake_ms == NOW + 50_000 + TIMING.resend_ms


def test_a_certified_block_is_spoken_of_no_more() -> None:
    replica = replica_of()
    agree(replica, content_of(), certified=True)

    assert replica.tick(NOW + 100_000) == Effects()
    assert replica.wake_ms == NEVER_MS


def test_a_stranger_cannot_be_a_replica() -> None:
    with pytest.raises(LocalProtocolError, match="not an endorser"):
        replica_of("x")


# Real signatures


def test_a_group_with_real_keys_certifies_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    identities = {member: Identity(bytes([number]) * 32) for number, member in enumerate("abcd")}
    epoch = Epoch(0, tuple((member, each.public_key) for member, each in identities.items()))
    monkeypatch.setattr("tests.support.replicas.FakeSigner", identities.__getitem__)
    monkeypatch.setattr("tests.support.replicas.FakeVerifier", SodiumVerifier)
    group = {member: Member(member, epoch) for member in epoch.members}
    group["a"].submit(ANN, NOW)
    for member in group.values():
        member.submit(ANN, NOW)
        member.tick(NOW + TIMING.batch_wait_ms)

    while any(each.outbox for each in group.values()):
        for name, member in group.items():
            outbox, member.outbox = member.outbox, []
            for sent, receiver in itertools.product(outbox, group):
                assert isinstance(sent, Sent)
                if receiver != name:
                    group[receiver].hear(name, sent.payload, NOW + 100)

    for member in group.values():
        block = member.disk.certified_block(1)
        assert block is not None
        verify_certificate(
            block.certificate,
            block.header,
            epoch=epoch,
            chain_id=CHAIN_ID,
            verifier=SodiumVerifier(),
        )
        assert member.replica.receive(forged(prepares(CONTENT, "b")[0]), NOW).rejected
