"""Replicas in a seeded world: loss, delay, repetition, reordering, crashes, liars; then it heals.

After every step: all executed the same blocks, and nobody contradicted an own vote (the disk
checks).  After healing everything that was submitted must be executed and certified everywhere.
"""

import heapq
import random
from collections.abc import Iterator
from itertools import count

import pytest

from consensus.block import Certificate, CertifiedBlock, Content
from consensus.messages import Commit, Prepare
from consensus.operation import Operation
from consensus.replica import LOG_SIZE
from tests.support.replicas import (
    CHAIN_ID,
    START_MS,
    Block,
    BlockWanted,
    Member,
    Payload,
    ballot_of,
    epoch_of,
    make_operation,
)

TROUBLE_MS, LONG_TROUBLE_MS = 2_000, 6_000
HEALED_MS = 30_000
STEP_MS = 50
PATIENCE_MS = 200


class World:
    """A group on a bad bus; everything follows from the seed."""

    def __init__(self, seed: int, size: int, *, liar: str | None = None) -> None:
        self.rng = random.Random(seed)  # noqa: S311 - a reproducible test, not a secret
        self.epoch = epoch_of(size)
        self.members = {each: Member(each, self.epoch) for each in self.epoch.members}
        self.liar = liar
        self.loss = self.rng.choice((0.0, 0.05, 0.2, 0.4))
        self.delay_ms_max = self.rng.choice((1, 30, 150))
        self.repeat = self.rng.choice((0.0, 0.3))
        self.crashes = self.rng.choice((0.0, 0.01, 0.05))
        self.now_ms = START_MS
        self.troubled_until_ms = START_MS + (TROUBLE_MS if seed % 10 else LONG_TROUBLE_MS)
        self.headers: dict[int, bytes] = {}
        self.submitted: list[Operation] = []
        self.is_healed = False
        self.seen: set[str] = set()
        self.restarts = self.deaths = self.adopted = 0
        self._order: Iterator[int] = count()
        self._queue: list[tuple[int, int, str, str, Payload]] = []
        self._asked: dict[str, int] = dict.fromkeys(self.members, 0)

    @property
    def honest(self) -> list[Member]:
        return [each for name, each in self.members.items() if name != self.liar]

    def run(self, until_ms: int) -> None:
        while self.now_ms < until_ms:
            self.now_ms += STEP_MS
            self.trouble()
            while self._queue and self._queue[0][0] <= self.now_ms:
                at_ms, _, sender, receiver, payload = heapq.heappop(self._queue)
                member = self.members[receiver]
                if member.is_up:
                    self.count(member, payload)
                    member.hear(sender, payload, at_ms)
                    self.deaths += not member.is_up
                    self.collect(member)
            for member in self.members.values():
                if member.is_up:
                    member.tick(self.now_ms)
                    self.catch_up(member)
                    self.collect(member)
            if self.is_healed and self.is_finished:
                return

    @property
    def open(self) -> list[Operation]:
        """Return the operations without a receipt: their clients say them again."""
        done = set.intersection(*(set(each.executor.done) for each in self.honest))
        return [each for each in self.submitted if each.id not in done]

    @property
    def is_finished(self) -> bool:
        wanted = {each.id for each in self.submitted}
        return all(
            wanted <= set(each.executor.done) and each.replica.stable == len(self.headers)
            for each in self.honest
        )

    def trouble(self) -> None:
        """Crash and restart members, submit operations, tell lies."""
        for member in self.members.values():
            if not member.is_up and self.rng.random() < 0.2:
                self.restarts += 1
                member.start()
            elif member.is_up and self.rng.random() < self.crashes:
                if self.rng.random() < 0.5:
                    member.dies_before_sending = True
                else:
                    member.crash()
        if self.now_ms < self.troubled_until_ms and self.rng.random() < 0.4:
            self.submitted.append(make_operation("ann", len(self.submitted) + 1))
        for operation in self.open:
            if self.rng.random() < (0.2 if self.is_healed else 0.05):
                self.offer(operation)
        if self.liar is not None and self.rng.random() < 0.5:
            self.lie(self.liar)

    def offer(self, operation: Operation) -> None:
        """Let a client say an operation again, to those who happen to hear it."""
        for member in self.members.values():
            heard = member.is_up and self.rng.random() >= self.loss
            if heard and operation.id not in member.executor.done:
                member.submit(operation, self.now_ms)
                self.collect(member)

    def count(self, member: Member, payload: Payload) -> None:
        """Count the blocks that a member adopts."""
        if isinstance(payload, CertifiedBlock):
            self.adopted += payload.header.height == member.executor.height + 1

    def collect(self, member: Member) -> None:
        """Put on the bus what a member says, and compare what it executed with all others."""
        for happening in member.journal:
            self.seen.add(type(happening).__name__)
            if isinstance(happening, Block):
                header = happening.header
                digest = header.digest(CHAIN_ID)
                assert self.headers.setdefault(header.height, digest) == digest, "a fork"
            if isinstance(happening, Certificate):
                assert self.headers[happening.height] == happening.header_digest
        outbox, member.outbox = member.outbox, []
        member.journal.clear()
        for sent in outbox:
            for each in self.members if sent.receiver is None else (sent.receiver,):
                self.send(member.member, each, sent.payload)

    def send(self, sender: str, receiver: str, payload: Payload) -> None:
        for _ in range(1 + (self.rng.random() < self.repeat)):
            if self.rng.random() >= self.loss:
                at_ms = self.now_ms + self.rng.randint(0, self.delay_ms_max)
                heapq.heappush(self._queue, (at_ms, next(self._order), sender, receiver, payload))

    def catch_up(self, member: Member) -> None:
        """Ask somebody for the first block or certificate that is missing, now and then."""
        if self.rng.random() < STEP_MS / PATIENCE_MS:
            height = member.replica.stable + 1
            others = [each for each in self.members if each != member.member]
            self._asked[member.member] += 1
            source = others[self._asked[member.member] % len(others)]
            if height <= max(len(each.disk.certificates) for each in self.members.values()):
                self.send(member.member, source, BlockWanted(height))

    def lie(self, liar: str) -> None:
        """Sign votes at random, for what others proposed and for what nobody did."""
        ballot = ballot_of(liar)
        height = max(len(each.disk.blocks) for each in self.honest) + self.rng.randint(-1, 3)
        said = [each[4] for each in self._queue if isinstance(each[4], Prepare | Commit)]
        digests = [bytes(32), *(each.digest for each in said)]
        for receiver in self.members:
            if receiver == liar or height < 1:
                continue
            digest = self.rng.choice(digests)
            votes: tuple[Payload, ...] = (
                ballot.prepare(0, 0, height, digest),
                ballot.commit(0, 0, height, digest),
                ballot.checkpoint(0, height, digest),
            )
            self.send(liar, receiver, self.rng.choice(votes))

    def heal(self) -> None:
        """End the trouble: everybody is up, nothing is lost from now on."""
        self.is_healed = True
        self.loss = self.crashes = 0.0
        for member in self.members.values():
            member.dies_before_sending = False
            if not member.is_up:
                member.start()


@pytest.mark.parametrize("seed", range(200))
def test_members_agree_in_trouble_and_finish_when_it_ends(seed: int) -> None:
    world = World(seed, size=(4, 4, 5, 4, 6, 4, 7)[seed % 7])
    world.run(world.troubled_until_ms)

    world.heal()
    world.run(world.now_ms + HEALED_MS)

    assert world.is_finished
    assert all(len(set(each.executor.done)) == len(each.executor.done) for each in world.honest)
    assert not any(each.evidence for each in world.honest), "nobody honest contradicts itself"


@pytest.mark.parametrize("seed", range(30))
def test_a_lying_backup_neither_splits_nor_stops_the_group(seed: int) -> None:
    world = World(seed, size=(4, 5, 7)[seed % 3], liar="d")
    world.run(world.troubled_until_ms)

    world.heal()
    world.run(world.now_ms + HEALED_MS)

    assert world.is_finished
    accused = {each.first.member for member in world.honest for each in member.evidence}
    assert accused <= {"d"}


class LyingPrimary(World):
    """The primary tells every member something else, and votes for everything."""

    def lie(self, liar: str) -> None:
        ballot = ballot_of(liar)
        height = max(len(each.disk.blocks) for each in self.honest) + 1
        contents = [
            Content(0, height, START_MS, tuple(each.id for each in chosen))
            for chosen in ((), self.submitted[:1], self.submitted[-1:])
        ]
        for receiver in self.members:
            if receiver == liar:
                continue
            content = self.rng.choice(contents)
            self.send(liar, receiver, ballot.pre_prepare(0, content))
            for other in contents:
                self.send(liar, receiver, ballot.commit(0, 0, height, other.digest(CHAIN_ID)))


@pytest.mark.parametrize("seed", range(30))
def test_a_lying_primary_cannot_split_the_group(seed: int) -> None:
    world = LyingPrimary(seed, size=(4, 5, 6, 7)[seed % 4], liar="a")

    world.run(world.troubled_until_ms)

    accused = {each.first.member for member in world.honest for each in member.evidence}
    assert accused <= {"a"}


def test_the_simulation_is_as_bad_as_it_is_meant_to_be() -> None:
    worlds = [World(seed, size=4) for seed in range(20)]
    for world in worlds:
        world.run(world.troubled_until_ms)
    liars = [LyingPrimary(seed, size=4, liar="a") for seed in range(10)]
    for liar in liars:
        liar.run(liar.troubled_until_ms)

    assert max(len(world.headers) for world in worlds) > LOG_SIZE
    assert sum(world.restarts for world in worlds) > 30
    assert sum(world.deaths for world in worlds) > 5
    assert sum(world.adopted for world in worlds) > 10
    assert set.union(*(world.seen for world in worlds)) >= {"Rejection", "Sent", "DurableVote"}
    assert sum("Equivocation" in liar.seen for liar in liars) > 5
    assert sum(len(liar.headers) for liar in liars) > 5
