"""Errors that a user can mend, raised at the boundary with a one-line message."""


class InputError(ValueError):
    """Bad input: the message names the field, the value, what was expected and the next thing to try."""


class WeightsError(InputError):
    """A weights directory that cannot be used: missing, truncated, of another rule, or with a wrong checksum."""
