from hypothesis import given
from hypothesis import strategies as st

from consensus.merkle import EMPTY_ROOT, merkle_root
from consensus.state_tree import BUCKETS, StateTree, bucket_of, entry_leaf

keys = st.text("abc/", min_size=1, max_size=4)
values = st.binary(max_size=3)
writes = st.dictionaries(keys, st.one_of(st.none(), values), max_size=12)


@given(st.lists(writes, max_size=6))
def test_the_root_follows_from_the_entries_alone(blocks: list[dict[str, bytes | None]]) -> None:
    tree, model = StateTree(), dict[str, bytes]()

    for block in blocks:
        tree.apply(block)
        for key, value in block.items():
            model.pop(key, None)
            if value is not None:
                model[key] = value

    assert dict(tree.items()) == model
    assert tree.root == StateTree(model.items()).root == slow_root(model)
    assert all(tree.get(key) == model.get(key) for block in blocks for key in block)


def slow_root(entries: dict[str, bytes]) -> bytes:
    """Hash everything anew, bucket by bucket."""
    return merkle_root(
        [
            merkle_root(
                [
                    entry_leaf(key, value)
                    for key, value in sorted(entries.items())
                    if bucket_of(key) == bucket
                ]
            )
            for bucket in range(BUCKETS)
        ]
    )


@given(st.dictionaries(keys, values, min_size=1, max_size=10), st.randoms(use_true_random=False))
def test_the_order_of_writes_does_not_matter(entries: dict[str, bytes], chance: object) -> None:
    shuffled = list(entries.items())
    chance.shuffle(shuffled)  # type: ignore[attr-defined] # hypothesis gives a random.Random

    one_by_one = StateTree()
    for key, value in shuffled:
        one_by_one.apply({key: value})

    assert one_by_one.root == StateTree(entries.items()).root
    assert list(one_by_one.items()) == list(StateTree(entries.items()).items())


def test_deleting_leaves_no_trace() -> None:
    tree = StateTree([("a", b"1")])
    before = tree.root

    tree.apply({"b": b"2"})
    assert tree.root != before
    tree.apply({"b": None, "never": None})

    assert tree.root == before
    assert tree.get("b") is None


def test_key_and_value_cannot_be_taken_for_each_other() -> None:
    assert entry_leaf("ab", b"c") != entry_leaf("a", b"bc")
    assert StateTree([("a", b"")]).root != StateTree().root


def test_an_empty_state_is_256_empty_buckets() -> None:
    assert StateTree().root == merkle_root([EMPTY_ROOT] * 256)
