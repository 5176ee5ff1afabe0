"""Failures of a run, as opposed to bad input (`learned_opt.errors.InputError`, `tasks.errors.InputError`)."""


class RunFailed(RuntimeError):
    """The run stopped for a reason outside the input; the message says what is intact and how to go on."""
