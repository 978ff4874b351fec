"""The nonce window against an obvious model: the set of everything that was ever used."""

from hypothesis import given
from hypothesis import strategies as st

from consensus.codec import decode, encode
from consensus.nonces import FRESH_WINDOW, WINDOW_BITS, NonceWindow

nonces = st.one_of(st.integers(0, 200), st.integers(0, 2**63 - 1))


class SetOfNonces:
    """Remembers all; refuses what was used, and what lies a window or more below the highest."""

    def __init__(self) -> None:
        self._used: set[int] = set()

    def is_used(self, nonce: int) -> bool:
        highest = max(self._used, default=0)
        return nonce in self._used or nonce <= highest - WINDOW_BITS

    def use(self, nonce: int) -> None:
        self._used.add(nonce)


@given(st.lists(nonces, max_size=150), st.lists(nonces, max_size=20))
def test_the_window_answers_like_the_set_of_all_used(used: list[int], asked: list[int]) -> None:
    window, model = FRESH_WINDOW, SetOfNonces()

    for nonce in used:
        assert window.is_used(nonce) == model.is_used(nonce)
        if not window.is_used(nonce):
            window = window.use(nonce)
            model.use(nonce)

    for nonce in (*asked, *used):
        assert window.is_used(nonce) == model.is_used(nonce)


@given(st.permutations(range(1, WINDOW_BITS + 1)))
def test_within_the_window_order_does_not_matter(order: list[int]) -> None:
    window = FRESH_WINDOW

    for nonce in order:
        assert not window.is_used(nonce)
        window = window.use(nonce)

    assert window == NonceWindow(WINDOW_BITS, b"\xff" * 8)


def test_a_used_nonce_stays_used_at_the_window_s_edge() -> None:
    window = FRESH_WINDOW.use(1).use(WINDOW_BITS)

    assert window.is_used(1)
    assert not window.is_used(2)
    assert window.use(WINDOW_BITS + 1).is_used(1)
    assert not window.use(WINDOW_BITS + 1).is_used(2)
    assert window.use(WINDOW_BITS + 2).is_used(2)


@given(st.lists(nonces, max_size=30))
def test_the_state_holds_the_window_in_one_fixed_form(used: list[int]) -> None:
    window = FRESH_WINDOW
    for nonce in used:
        window = window if window.is_used(nonce) else window.use(nonce)

    assert len(window.used) == WINDOW_BITS // 8
    assert decode(encode(window), NonceWindow) == window
