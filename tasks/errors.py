"""Errors that a user can mend, raised at the boundary with a one-line message."""


class InputError(ValueError):
    """Bad input: the message names the field, the value, what was expected and the next thing to try."""


class DataTooLarge(InputError):
    """A data set that does not fit on the device at once; `tasks.streaming` reads it."""


class DataUnavailable(InputError):
    """A data set that is neither prepared nor obtainable; the message holds the command that prepares it."""
