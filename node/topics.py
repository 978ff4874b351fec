"""The topics of the community bus: what they look like, who may write them, who reads them.

A topic is `ws/1/<community>/<class>/<from>[/rest]`, and `ws/1/<community>/in/<to>/<from>/<kind>`
for mail to one member.  The sender has a fixed level, so that a broker can enforce that members
write only in their own name; behind a bridge that no longer holds, and only signatures count.

`Topic.parse` accepts exactly what `Topic.render` writes and answers None to everything else.
Filters of one subscriber are disjoint: overlapping ones would deliver a message twice.
"""

import enum
import re
from dataclasses import dataclass
from typing import Self

PROTOCOL = "1"
"""The version of the bus protocol, second level of every topic."""

TOPIC_CHARS_MAX = 160
"""Longer texts are junk: the longest topic that the level patterns allow has fewer characters."""

_MEMBER = re.compile(r"[a-z0-9]{1,16}")
_COMMUNITY = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_LEVEL = re.compile(r"[a-z0-9_-]{1,32}")
_REST_LEVELS_MAX = 2


class TopicClass(enum.StrEnum):
    """What a topic carries; the value is its level on the bus."""

    STATUS = "st"
    OPERATION = "tx"
    PRICE = "px"
    CONSENSUS = "bft"
    BLOCK = "blk"
    INBOX = "in"
    OPERATOR = "op"
    PUBLIC = "pub"

    @property
    def qos(self) -> int:
        """MQTT quality of service: 0 for what is soon repeated or pulled, else 1."""
        return 0 if self in _QOS_0 else 1

    @property
    def is_retained(self) -> bool:
        """Whether the broker keeps the last message for later subscribers."""
        return self is TopicClass.STATUS


_QOS_0 = frozenset(
    {TopicClass.PRICE, TopicClass.CONSENSUS, TopicClass.BLOCK, TopicClass.INBOX},
)


class Role(enum.Enum):
    """What a user of the bus is to the community."""

    ENDORSER = enum.auto()
    HOUSEHOLD = enum.auto()
    OPERATOR = enum.auto()
    AUDITOR = enum.auto()


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic of a community; only `INBOX` has a recipient, and then exactly one level of rest.

    Raises ValueError when a part cannot stand in a topic.
    """

    topic_class: TopicClass
    sender: str
    recipient: str | None = None
    rest: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self._is_well_formed():
            raise ValueError(f"not a topic of the bus: {self!r}")

    def _is_well_formed(self) -> bool:
        if self.topic_class is TopicClass.INBOX:
            has_shape = self.recipient is not None and len(self.rest) == 1
        else:
            has_shape = self.recipient is None and len(self.rest) <= _REST_LEVELS_MAX
        return (
            has_shape
            and is_member_id(self.sender)
            and (self.recipient is None or is_member_id(self.recipient))
            and all(_LEVEL.fullmatch(level) for level in self.rest)
        )

    def render(self, community: str) -> str:
        """Write the topic as MQTT text; ValueError if the community's name cannot stand in it."""
        addressed = (self.sender,) if self.recipient is None else (self.recipient, self.sender)
        return "/".join((_root(community), self.topic_class, *addressed, *self.rest))

    @classmethod
    def parse(cls, text: str, community: str) -> Self | None:
        """Read a topic of this community; None for anything that `render` does not write."""
        if len(text) > TOPIC_CHARS_MAX:
            return None
        root, separator, levels = text.partition(f"ws/{PROTOCOL}/{community}/")
        if root or not separator:
            return None
        name, *parts = levels.split("/")
        try:
            topic_class = TopicClass(name)
            if topic_class is TopicClass.INBOX:
                recipient, sender, *rest = parts
                return cls(topic_class, sender, recipient, tuple(rest))
            sender, *rest = parts
            return cls(topic_class, sender, None, tuple(rest))
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class Subscription:
    """A topic filter and the quality of service to ask for."""

    topic_filter: str
    qos: int


def is_member_id(text: str) -> bool:
    """Whether the text can be the id of a member, `[a-z0-9]{1,16}`."""
    return _MEMBER.fullmatch(text) is not None


def publish_filters(community: str, role: Role, user: str) -> tuple[str, ...]:
    """List the filters that a user may publish under: its own name in every class, nothing else.

    Every member may write `bft` and `blk`, so that a change of endorsers needs no change at the
    broker; who endorses is decided by signatures.  Only an operator writes `op`, and an auditor
    writes nothing.  `user` may be a broker's placeholder for the connected user.
    """
    if role is Role.AUDITOR:
        return ()
    own = (
        TopicClass.STATUS,
        TopicClass.OPERATION,
        TopicClass.PRICE,
        TopicClass.CONSENSUS,
        TopicClass.BLOCK,
        TopicClass.PUBLIC,
        *((TopicClass.OPERATOR,) if role is Role.OPERATOR else ()),
    )
    root = _root(community)
    return (
        *(f"{root}/{topic_class}/{user}/#" for topic_class in own),
        f"{root}/{TopicClass.INBOX}/+/{user}/#",
    )


def readable_filters(community: str, role: Role, user: str) -> tuple[str, ...]:
    """List the filters that a broker grants: all but the mail of others; all to an auditor.

    `user` may be a broker's placeholder for the connected user.
    """
    if role is Role.AUDITOR:
        return (f"{_root(community)}/#",)
    return tuple(_filter(community, topic_class, user) for topic_class in TopicClass)


def subscriptions(community: str, role: Role, user: str) -> tuple[Subscription, ...]:
    """List what a user subscribes to, disjoint.

    A household and an operator follow the chain and need no `tx` and no `bft`.
    """
    if role is Role.AUDITOR:
        return tuple(Subscription(text, 1) for text in readable_filters(community, role, user))
    voting = (TopicClass.OPERATION, TopicClass.CONSENSUS) if role is Role.ENDORSER else ()
    classes = (
        TopicClass.STATUS,
        *voting,
        TopicClass.PRICE,
        TopicClass.BLOCK,
        TopicClass.OPERATOR,
        TopicClass.INBOX,
    )
    return tuple(
        Subscription(_filter(community, topic_class, user), topic_class.qos)
        for topic_class in classes
    )


def _filter(community: str, topic_class: TopicClass, user: str) -> str:
    """Write the filter of all that a member may read of one class."""
    root = f"{_root(community)}/{topic_class}"
    return f"{root}/{user}/#" if topic_class is TopicClass.INBOX else f"{root}/#"


def _root(community: str) -> str:
    if _COMMUNITY.fullmatch(community) is None:
        raise ValueError(
            f"{community!r} cannot name a community: 1 to 32 of a-z, 0-9 and '-', not '-' first"
        )
    return f"ws/{PROTOCOL}/{community}"
