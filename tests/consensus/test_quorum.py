import pytest

from consensus.quorum import MEMBERS_MIN, faulty_max, quorum, weak_quorum

EVERY_SIZE = range(MEMBERS_MIN, 101)


def test_two_quorums_share_an_honest_member() -> None:
    for members in EVERY_SIZE:
        assert 2 * quorum(members) - members >= faulty_max(members) + 1


def test_the_honest_members_are_a_quorum() -> None:
    for members in EVERY_SIZE:
        assert quorum(members) <= members - faulty_max(members)


def test_a_smaller_quorum_would_be_unsafe() -> None:
    for members in EVERY_SIZE:
        assert 2 * (quorum(members) - 1) - members < faulty_max(members) + 1


def test_more_faulty_members_could_not_be_withstood() -> None:
    for members in EVERY_SIZE:
        faulty = faulty_max(members)

        assert members >= 3 * faulty + 1
        assert members < 3 * (faulty + 1) + 1


def test_a_weak_quorum_has_an_honest_member() -> None:
    for members in EVERY_SIZE:
        assert weak_quorum(members) == faulty_max(members) + 1


@pytest.mark.parametrize(
    ("members", "faulty", "size"),
    [
        (4, 1, 3),
        (5, 1, 4),
        (6, 1, 4),
        (7, 2, 5),
        (8, 2, 6),
        (9, 2, 6),
        (10, 3, 7),
        (30, 9, 20),
    ],
)
def test_sizes_are_those_of_the_table(members: int, faulty: int, size: int) -> None:
    assert (faulty_max(members), quorum(members)) == (faulty, size)
