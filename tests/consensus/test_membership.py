import pytest

from consensus.membership import Epoch
from tests.support.replicas import CHAIN_ID, epoch_of, key_of


def test_the_primary_goes_round_the_members_in_id_order() -> None:
    epoch = epoch_of(4)

    assert [epoch.primary(view) for view in range(6)] == ["a", "b", "c", "d", "a", "b"]


def test_a_member_has_its_key_and_a_stranger_none() -> None:
    epoch = epoch_of(4)

    assert epoch.public_key("b") == key_of("b")
    assert epoch.public_key("e") is None


def test_quorums_are_those_of_the_size() -> None:
    assert (epoch_of(5).quorum, epoch_of(5).weak_quorum) == (4, 2)


@pytest.mark.parametrize(
    "members",
    [["b", "a", "c", "d"], ["a", "a", "b", "c"], ["a", "b", "c"], []],
    ids=["unsorted", "repeated", "too few", "none"],
)
def test_a_set_that_cannot_work_is_refused(members: list[str]) -> None:
    keys = tuple((member, key_of(f"{index}")) for index, member in enumerate(members))

    with pytest.raises(ValueError, match="endorsers"):
        Epoch(number=0, keys=keys)


def test_one_key_under_two_names_is_refused() -> None:
    keys = tuple((member, key_of("a" if member == "b" else member)) for member in "abcd")

    with pytest.raises(ValueError, match="share a key"):
        Epoch(number=0, keys=keys)


def test_the_digest_covers_number_members_keys_and_chain() -> None:
    epoch = epoch_of(4)
    others = [
        Epoch(number=1, keys=epoch.keys),
        Epoch(number=0, keys=(*epoch.keys[:3], ("e", key_of("d")))),
        Epoch(number=0, keys=(*epoch.keys[:3], ("d", key_of("e")))),
        epoch_of(5),
    ]

    digests = {each.digest(CHAIN_ID) for each in (epoch, *others)}

    assert len(digests) == 5
    assert epoch.digest(bytes(32)) not in digests
