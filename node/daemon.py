"""The daemon of one home: builds the node from its files and runs it until told to stop.

Exit codes beside the command line's: 70 when a quorum certified another header than this node
executed, 74 when the disk failed.  In both cases it has stopped voting.
"""

import asyncio
import fcntl
import logging
import os
import signal
import sys
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import structlog

from consensus.codec import decode, encode
from consensus.errors import DivergedError
from consensus.replica import Executed, Replica
from market.negotiation.registry import negotiator_of
from node.assets.equipment import equipment_of
from node.assets.home import SimulatedHome
from node.client import Client
from node.clock import wall_ms
from node.config import Config
from node.driver import Driver
from node.errors import ConfigError, StoreError
from node.execution import SALT_BYTES, Execution
from node.follower import Follower
from node.genesis import Genesis, parse_genesis
from node.household import Household
from node.identity import Identity, SodiumVerifier
from node.mqtt import BrokerAddress, MqttTransport
from node.store import LedgerStore, VoteStore
from node.streets.street import PRESETS, StreetError, load_street
from node.topics import Role, Topic, TopicClass, subscriptions
from node.transport import Frame, Transport
from node.wire import Doorman, Postmark, Status

EXIT_DIVERGED = 70
EXIT_DISK = 74

FRAMES_PER_TURN_MAX = 256
"""Frames taken before the turn's duties are done: enough to batch, few enough to stay prompt."""

IDLE_SECONDS_MAX = 0.25
"""A turn is taken at least this often, so that a reconnect is noticed."""

GENESIS_POLL_SECONDS = 0.02

_log = structlog.get_logger(__name__)


def _log_from(level: int) -> None:
    """Write one line an event to standard output, from this level up."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        ],
    )


def run_daemon(config: Config) -> int:
    """Run until SIGTERM, SIGINT or the end of a supervisor's pipe; return the exit code."""
    _log_from(logging.INFO)
    # Ledgers hold everybody's readings: for this user's eyes only.
    os.umask(0o077)
    with _locked(Path(config.node.data)):
        try:
            asyncio.run(_run(config))
        except BaseExceptionGroup as group:
            error, code = _fatal(group)
            if error is None:
                raise
            sys.stderr.write(f"wattstreet: this node has stopped voting: {error}\n")
            return code
    return 0


def _fatal(group: BaseExceptionGroup[BaseException]) -> tuple[BaseException | None, int]:
    """Return the error that the exit code speaks of, and the code."""
    for type_, code in ((DivergedError, EXIT_DIVERGED), (StoreError, EXIT_DISK)):
        error: BaseException | None = group.subgroup(type_)
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if error is not None:
            return error, code
    return None, 1


class _locked:  # noqa: N801 - reads as a verb in a with statement
    """One process per data directory: two with one key would contradict each other."""

    def __init__(self, data: Path) -> None:
        data.mkdir(parents=True, exist_ok=True)
        self._path = data / "lock"

    def __enter__(self) -> None:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise ConfigError(
                f"another daemon uses {self._path.parent}; stop it, or name another data directory"
            ) from None

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


async def _run(config: Config) -> None:
    """Run the node's tasks as one group; the first to fail ends all."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(_run_node(config), name="node"),
            tasks.create_task(_wait_for_end_of_supervisor(), name="supervisor"),
            tasks.create_task(stop.wait(), name="stop"),
        ]
        await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for task in running:
            task.cancel()


async def _wait_for_end_of_supervisor() -> None:
    """Return when standard input ends, if it is a pipe: whoever started us is gone."""
    if not sys.stdin or sys.stdin.isatty() or not _is_pipe(sys.stdin.fileno()):
        await asyncio.Event().wait()
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


def _is_pipe(descriptor: int) -> bool:
    return os.fstat(descriptor).st_mode & 0o170000 == 0o010000


async def _run_node(config: Config) -> None:
    identity = await asyncio.to_thread(_identity, Path(config.node.data))
    genesis = await _genesis(Path(config.node.genesis))
    member = config.node.member
    if genesis.keys.get(member) != identity.public_key:
        raise ConfigError(
            f"genesis does not know {member} with the key in {config.node.data}/identity.key; "
            "ask your operator to enrol it"
        )
    async with AsyncExitStack() as stack:
        transport = _transport(config, genesis, identity)
        driver = await _build(stack, config, genesis, identity, transport)
        async with asyncio.TaskGroup() as tasks:
            bus = tasks.create_task(transport.run(), name="bus")
            try:
                await _drive(driver, transport, genesis)
            finally:
                _log.info("stopped", height=driver.height, counters=dict(driver.counters))
                bus.cancel()


def _identity(data: Path) -> Identity:
    """Load or make this node's key, and lay its public half beside it for the operator."""
    identity = Identity.load_or_create(data / "identity.key")
    (data / "identity.pub").write_text(identity.public_key.hex() + "\n")
    return identity


async def _genesis(path: Path) -> Genesis:
    """Read genesis, waiting for the operator to write it."""
    if not await asyncio.to_thread(path.exists):
        _log.info("waiting for genesis", path=str(path))
    while not await asyncio.to_thread(path.exists):  # noqa: ASYNC110 - another process writes it
        await asyncio.sleep(GENESIS_POLL_SECONDS)
    return parse_genesis(await asyncio.to_thread(path.read_bytes))


def _transport(config: Config, genesis: Genesis, identity: Identity) -> MqttTransport:
    member = config.node.member
    role = Role.ENDORSER if genesis.epoch.public_key(member) else Role.HOUSEHOLD
    will = Postmark(member=member, chain_id=genesis.chain_id, signer=identity, session=wall_ms())
    return MqttTransport(
        BrokerAddress(
            host=config.broker.host,
            port=config.broker.port,
            username=member,
            password=_password(Path(config.broker.password_file)),
        ),
        genesis.community,
        subscriptions(genesis.community, role, member),
        will=(
            Topic(TopicClass.STATUS, member, rest=("status",)),
            will.seal("status", Status("lost")),
        ),
    )


def _password(path: Path) -> str | None:
    """Read the broker's password; an empty file means that the broker asks for none."""
    try:
        return path.read_text().strip() or None
    except OSError as error:
        raise ConfigError(
            f"cannot read the broker's password in {path}: {error.strerror}; "
            "write it there, mode 0600"
        ) from error


async def _session(ledger: LedgerStore) -> int:
    """Begin a session above every earlier one, also when the clock was set back meanwhile."""
    stored = await ledger.value("session")
    session = max(wall_ms(), decode(stored, int) + 1 if stored else 0)
    await ledger.note(received=(), values=[("session", encode(session))], traces=())
    return session


async def _build(
    stack: AsyncExitStack,
    config: Config,
    genesis: Genesis,
    identity: Identity,
    transport: Transport,
) -> Driver:
    """Put the node together from what is on disk."""
    data, member, chain_id = Path(config.node.data), config.node.member, genesis.chain_id
    verifier = SodiumVerifier()

    def now_ms() -> int:
        return genesis.clock.at(wall_ms())

    ledger = await LedgerStore.open(data / "ledger.db")
    stack.push_async_callback(ledger.close)
    execution = await _execution(ledger, genesis, verifier)
    votes = None
    if genesis.epoch.public_key(member):
        votes = await VoteStore.open(data / "votes.db")
        stack.push_async_callback(votes.close)
    reserved = await ledger.value("nonces_reserved")
    first_nonce = max(decode(reserved, int) if reserved else 1, execution.highest_nonce(member) + 1)
    resend_ms = genesis.timing.resend_ms
    client = Client(
        member=member,
        chain_id=chain_id,
        signer=identity,
        first_nonce=first_nonce,
        outbox=await ledger.outbox(),
        resend_ms=4 * resend_ms,
        random_salt=lambda: os.urandom(SALT_BYTES),
    )
    return Driver(
        member=member,
        execution=execution,
        follower=Follower(
            member=member,
            epoch=genesis.epoch,
            chain_id=chain_id,
            verifier=verifier,
            height=execution.header.height,
            uncertified={
                height: header.digest(chain_id)
                for height, header in (await ledger.uncertified()).items()
            },
            patience_ms=2 * resend_ms,
        ),
        replica=await _replica(member, genesis, identity, verifier, execution, ledger, votes),
        household=await _household(config, genesis, execution, ledger, now_ms()),
        client=client,
        postmark=Postmark(
            member=member, chain_id=chain_id, signer=identity, session=await _session(ledger)
        ),
        doorman=Doorman(member=member, chain_id=chain_id, keys=genesis.keys, verifier=verifier),
        transport=transport,
        ledger=ledger,
        votes=votes,
        nonces_reserved=first_nonce - 1,
        now_ms=now_ms,
    )


async def _execution(ledger: LedgerStore, genesis: Genesis, verifier: SodiumVerifier) -> Execution:
    """Continue from the ledger, or start one from genesis."""
    fresh = Execution(genesis, verifier)
    await ledger.found(genesis, fresh.state.items())
    head = await ledger.head()
    if head is None:
        return fresh
    execution = Execution(genesis, verifier, state=await ledger.state(), header=head)
    if execution.state.root != head.state_root:
        raise StoreError(
            "the state in ledger.db is not that of its last block; "
            "move the file away, and this node takes the chain from its peers"
        )
    return execution


async def _replica(
    member: str,
    genesis: Genesis,
    identity: Identity,
    verifier: SodiumVerifier,
    execution: Execution,
    ledger: LedgerStore,
    votes: VoteStore | None,
) -> Replica | None:
    if votes is None:
        return None
    header = execution.header
    uncertified = await ledger.uncertified()
    return Replica(
        member=member,
        epoch=genesis.epoch,
        chain_id=genesis.chain_id,
        signer=identity,
        verifier=verifier,
        timing=genesis.timing,
        executed=Executed(header.height, execution.digest, header.time_ms),
        uncertified={height: each.digest(genesis.chain_id) for height, each in uncertified.items()},
        votes=await votes.read(),
    )


async def _household(
    config: Config, genesis: Genesis, execution: Execution, ledger: LedgerStore, joined_ms: int
) -> Household | None:
    """Return this home's decisions, None for an endorser that does not trade."""
    member, rules = config.node.member, genesis.rules
    if all(household.member != member for household in rules.households):
        return None
    home = _simulated_home(config)
    if not 0 < rules.calendar.count <= len(home.profile.load_wh):
        raise ConfigError(
            f"the street's record has {len(home.profile.load_wh)} slots, genesis trades "
            f"{rules.calendar.count or 'without end'}; a simulated home needs a slot for each"
        )
    return Household(
        member=member,
        rules=rules,
        view=execution.state,
        home=home,
        preset=config.preset,
        make_negotiator=partial(negotiator_of, rules.mechanism),
        resumed=await ledger.value("household"),
        joined_ms=joined_ms,
    )


def _simulated_home(config: Config) -> SimulatedHome:
    simulated = config.simulated
    preset = PRESETS.get(simulated.street)
    try:
        street = load_street(
            simulated.street,
            homes=len(preset.order) if preset else None,
            slot_minutes=simulated.slot_minutes or None,
        )
    except StreetError as error:
        raise ConfigError(f"[simulated] street: {error}") from error
    profile = next((each for each in street.homes if each.id == simulated.home), None)
    if profile is None:
        raise ConfigError(f"street {simulated.street} has no home {simulated.home}")
    device = equipment_of(street.name).get(profile.id)
    return SimulatedHome(profile=profile, seed=simulated.seed, device=device)


async def _drive(driver: Driver, transport: Transport, genesis: Genesis) -> None:
    """Take turns for ever: when frames arrive, and when something is due."""
    while True:
        wait_ms = driver.wake_ms - genesis.clock.at(wall_ms())
        seconds = min(max(genesis.clock.wall_seconds(wait_ms), 0.0), IDLE_SECONDS_MAX)
        frames: list[Frame] = []
        try:
            async with asyncio.timeout(seconds):
                frames.append(await transport.receive())
        except TimeoutError:
            pass
        while transport.pending and len(frames) < FRAMES_PER_TURN_MAX:
            frames.append(await transport.receive())
        await driver.turn(frames)
