"""What can go wrong between replicas, by whose fault it is."""


class ConsensusError(Exception):
    """Root of all errors that this package raises on purpose."""


class MalformedError(ConsensusError):
    """Bytes that are not the one canonical encoding of the expected type."""


class CertificateError(ConsensusError):
    """A certificate, proof or block that does not hold; the message names the rule."""


class DivergedError(ConsensusError):
    """A quorum certified another header than this replica executed: it must halt loudly."""


class LocalProtocolError(ConsensusError):
    """The caller used a state machine against its contract; a bug on this machine."""
