"""The two kinds of errors that a user can meet; everything else is a bug."""


class RequestError(ValueError):
    """The request was wrong: the message says what was given, what was expected and what to type next (exit code 2)."""


class FailedError(RuntimeError):
    """The request was right and failed, as with a damaged file (exit code 1)."""
