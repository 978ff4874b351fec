"""Errors that a user meets: what was given, what is allowed, and the remedy, in one line."""


class WattstreetError(Exception):
    """Root of the errors that the command line turns into one line on stderr."""


class ConfigError(WattstreetError):
    """Something that the user set up does not fit."""


class StoreError(WattstreetError):
    """The disk failed; a replica that cannot remember its votes must not vote."""
