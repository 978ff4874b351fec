import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.topics import (
    TOPIC_CHARS_MAX,
    Role,
    Topic,
    TopicClass,
    publish_filters,
    readable_filters,
    subscriptions,
)

COMMUNITY = "demo"

members = st.from_regex(r"[a-z0-9]{1,16}", fullmatch=True)
communities = st.from_regex(r"[a-z0-9][a-z0-9-]{0,31}", fullmatch=True)
levels = st.from_regex(r"[a-z0-9_-]{1,32}", fullmatch=True)


@st.composite
def topics(draw: st.DrawFn) -> Topic:
    topic_class = draw(st.sampled_from(TopicClass))
    if topic_class is TopicClass.INBOX:
        return Topic(topic_class, draw(members), draw(members), (draw(levels),))
    return Topic(topic_class, draw(members), None, tuple(draw(st.lists(levels, max_size=2))))


def matches(topic_filter: str, topic: str) -> bool:
    wanted, given_levels = topic_filter.split("/"), topic.split("/")
    if wanted[-1] == "#":
        wanted = wanted[:-1]
        given_levels = given_levels[: len(wanted)]
    return len(wanted) == len(given_levels) and all(
        want in ("+", level) for want, level in zip(wanted, given_levels, strict=True)
    )


def covers(filters: tuple[str, ...], topic: str) -> bool:
    return any(matches(text, topic) for text in filters)


@given(topics(), communities)
def test_a_rendered_topic_parses_to_itself(topic: Topic, community: str) -> None:
    text = topic.render(community)

    assert len(text) <= TOPIC_CHARS_MAX
    assert Topic.parse(text, community) == topic


@given(st.text())
def test_junk_is_answered_with_none(text: str) -> None:
    assert Topic.parse(text, COMMUNITY) is None


@given(st.lists(st.sampled_from(["ws", "1", "demo", "in", "st", "h1", "", "#", "é", "H1", "\n"])))
def test_what_parses_renders_to_the_same_text(parts: list[str]) -> None:
    text = "/".join(parts)

    topic = Topic.parse(text, COMMUNITY)

    assert topic is None or topic.render(COMMUNITY) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ws/1/demo",
        "ws/1/demo/tx",
        "ws/1/demo/tx/",
        "ws/2/demo/tx/h1",
        "ws/1/other/tx/h1",
        "ws/1/demo/zz/h1",
        "ws/1/demo/tx/H1",
        "ws/1/demo/tx/h1\n",
        "ws/1/demo/tx/h1/a/b/c",
        "ws/1/demo/tx/h1/",
        "ws/1/demo/tx/" + "h" * 17,
        "ws/1/demo/in/h1/h2",
        "ws/1/demo/in/h1/h2/pull/more",
        "ws/1/demo/tx/h1/" + "x" * 200,
        "/ws/1/demo/tx/h1",
    ],
)
def test_a_topic_of_wrong_shape_is_refused(text: str) -> None:
    assert Topic.parse(text, COMMUNITY) is None


def test_mail_names_the_recipient_before_the_sender() -> None:
    topic = Topic(TopicClass.INBOX, "h1", "h2", ("pull",))

    assert topic.render(COMMUNITY) == "ws/1/demo/in/h2/h1/pull"


@pytest.mark.parametrize(
    ("topic_class", "recipient", "rest"),
    [
        (TopicClass.INBOX, None, ("pull",)),
        (TopicClass.INBOX, "h2", ()),
        (TopicClass.PRICE, "h2", ()),
        (TopicClass.PRICE, None, ("a/b",)),
        (TopicClass.PRICE, None, ("a", "b", "c")),
    ],
)
def test_a_topic_of_wrong_shape_cannot_be_made(
    topic_class: TopicClass, recipient: str | None, rest: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError, match="not a topic"):
        Topic(topic_class, "h1", recipient, rest)


@pytest.mark.parametrize("community", ["", "-a", "A", "a/b", "#", "a" * 33])
def test_a_community_that_cannot_stand_in_a_topic_is_refused(community: str) -> None:
    with pytest.raises(ValueError, match="cannot name a community"):
        Topic(TopicClass.STATUS, "h1").render(community)


def test_quality_of_service_and_retention_follow_the_class() -> None:
    assert {name for name in TopicClass if name.qos == 0} == {"px", "bft", "blk", "in"}
    assert {name for name in TopicClass if name.is_retained} == {"st"}


@given(topics())
def test_a_member_may_publish_exactly_its_own_topics(topic: Topic) -> None:
    is_own = topic.sender == "h1" and topic.topic_class is not TopicClass.OPERATOR
    filters = publish_filters(COMMUNITY, Role.HOUSEHOLD, "h1")

    assert covers(filters, topic.render(COMMUNITY)) == is_own


def test_only_an_operator_publishes_notices_and_an_auditor_nothing() -> None:
    notice = Topic(TopicClass.OPERATOR, "operator", None, ("notice",)).render(COMMUNITY)

    assert covers(publish_filters(COMMUNITY, Role.OPERATOR, "operator"), notice)
    assert not covers(publish_filters(COMMUNITY, Role.HOUSEHOLD, "operator"), notice)
    assert publish_filters(COMMUNITY, Role.AUDITOR, "auditor") == ()


@given(topics())
def test_a_member_may_read_all_but_the_mail_of_others(topic: Topic) -> None:
    filters = readable_filters(COMMUNITY, Role.HOUSEHOLD, "h1")

    assert covers(filters, topic.render(COMMUNITY)) == (topic.recipient in (None, "h1"))


@given(topics())
def test_an_auditor_reads_everything(topic: Topic) -> None:
    assert covers(readable_filters(COMMUNITY, Role.AUDITOR, "auditor"), topic.render(COMMUNITY))


@pytest.mark.parametrize(
    ("role", "classes"),
    [
        (Role.ENDORSER, {"st", "tx", "px", "bft", "blk", "op", "in"}),
        (Role.HOUSEHOLD, {"st", "px", "blk", "op", "in"}),
        (Role.OPERATOR, {"st", "px", "blk", "op", "in"}),
    ],
)
def test_a_role_subscribes_to_what_it_needs(role: Role, classes: set[str]) -> None:
    wanted = subscriptions(COMMUNITY, role, "h1")

    assert {one.topic_filter.split("/")[3] for one in wanted} == classes
    assert all(one.qos == TopicClass(one.topic_filter.split("/")[3]).qos for one in wanted)
    assert {one.topic_filter for one in wanted} <= set(readable_filters(COMMUNITY, role, "h1"))


@pytest.mark.parametrize("role", Role)
def test_the_filters_of_a_subscriber_are_disjoint(role: Role) -> None:
    stems = [one.topic_filter.removesuffix("#") for one in subscriptions(COMMUNITY, role, "h1")]

    assert all(not one.startswith(other) for one, other in itertools.permutations(stems, 2))
