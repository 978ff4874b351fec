import asyncio

import pytest

from node.mqtt import BrokerAddress, BrokerAddressError
from node.topics import Topic, TopicClass
from node.transport import Frame, Mailbox

TOPIC = Topic(TopicClass.PRICE, "h1")


def frame(text: bytes) -> Frame:
    return Frame(TOPIC, text)


async def test_a_mailbox_gives_frames_in_the_order_they_came() -> None:
    mailbox = Mailbox(frames_max=3, bytes_max=100)

    assert all(mailbox.put(frame(text)) for text in (b"1", b"2", b"3"))

    assert [(await mailbox.take()).payload for _ in range(3)] == [b"1", b"2", b"3"]


async def test_a_full_mailbox_refuses_the_newest_frame() -> None:
    mailbox = Mailbox(frames_max=1, bytes_max=100)
    mailbox.put(frame(b"old"))

    assert not mailbox.put(frame(b"new"))

    assert len(mailbox) == 1
    assert (await mailbox.take()).payload == b"old"


async def test_a_mailbox_bounds_bytes_and_has_room_again_after_a_take() -> None:
    mailbox = Mailbox(frames_max=10, bytes_max=4)
    mailbox.put(frame(b"123"))

    assert not mailbox.put(frame(b"12"))
    await mailbox.take()

    assert mailbox.put(frame(b"1234"))


async def test_frames_put_back_come_first_and_in_their_order() -> None:
    mailbox = Mailbox(frames_max=2, bytes_max=100)
    mailbox.put(frame(b"3"))

    mailbox.put_back([frame(b"1"), frame(b"2")])

    assert [(await mailbox.take()).payload for _ in range(3)] == [b"1", b"2", b"3"]


async def test_each_of_many_takers_gets_one_frame() -> None:
    mailbox = Mailbox(frames_max=10, bytes_max=100)
    takers = [asyncio.create_task(mailbox.take()) for _ in range(3)]
    await asyncio.sleep(0)

    for text in (b"1", b"2", b"3"):
        mailbox.put(frame(text))

    assert {taken.payload for taken in await asyncio.gather(*takers)} == {b"1", b"2", b"3"}


def test_an_address_is_read_from_a_url() -> None:
    address = BrokerAddress.from_url("mqtt://h1:a%2Fb%40@broker.example:1884")

    assert (address.host, address.port) == ("broker.example", 1884)
    assert (address.username, address.password) == ("h1", "a/b@")
    assert BrokerAddress.from_url("mqtt://localhost").port == 1883


def test_an_address_does_not_show_its_password() -> None:
    assert "secret" not in repr(BrokerAddress.from_url("mqtt://h1:secret@localhost"))


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("localhost:1883", "starts with"),
        ("http://localhost", "starts with 'http'"),
        ("mqtt://", "no host"),
        ("mqtt://h1:pass@:1883", "no host"),
        ("mqtt://h1:secret/word@localhost:1883", "percent-encode"),
        ("mqtt://h1:secret#word@localhost:1883", "percent-encode"),
        ("mqtt://localhost:99999", "port"),
        ("mqtt://localhost:0", "port"),
        ("mqtt://localhost/street", "percent-encode"),
        ("mqtt://[::1", "host"),
        ("mqtt://" + "a" * 70 + ":1883", "host name"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_password(
    url: str, complaint: str
) -> None:
    with pytest.raises(BrokerAddressError, match=complaint) as refusal:
        BrokerAddress.from_url(url)

    assert "secret" not in str(refusal.value)
