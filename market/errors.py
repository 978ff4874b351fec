"""Why an operation has no effect: a result code that goes on the record."""

import enum


class Result(enum.StrEnum):
    """What became of an ordered operation.  Everything but OK is a deterministic no-op."""

    OK = "ok"
    NONCE_USED = "nonce-used"
    UNKNOWN_KIND = "unknown-kind"
    MALFORMED = "malformed"
    WRONG_CHANNEL = "wrong-channel"
    NOT_A_HOUSEHOLD = "not-a-household"
    QUOTA = "quota"
    NO_SUCH_SLOT = "no-such-slot"
    NOT_OPEN = "not-open"
    GATE_CLOSED = "gate-closed"
    STALE_REVISION = "stale-revision"
    NO_ORDER = "no-order"
    EMPTY_ORDER = "empty-order"
    ABOVE_CONNECTION = "above-connection"
    LIMIT_NOT_ALLOWED = "limit-not-allowed"
    NOT_NEGOTIATING = "not-negotiating"
    OTHER_BOOK = "other-book"
    REPEATED = "repeated"
    SUPERSEDED = "superseded"
    NO_CONTRADICTION = "no-contradiction"
    NOT_DELIVERED_YET = "not-delivered-yet"
    SETTLED = "settled"
    BOTH_WAYS = "both-ways"


class Refused(Exception):  # noqa: N818 - a refusal is an outcome, not an error of the program
    """An operation breaks a rule of the market; its effects are discarded, its code recorded."""

    def __init__(self, result: Result, detail: str) -> None:
        super().__init__(f"{result}: {detail}")
        self.result = result
        self.detail = detail
