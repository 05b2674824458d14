"""The two kinds of errors that a user can meet; everything else is a bug."""


class RequestError(ValueError):
    """The request was wrong: the message says what was given, what was expected and what to type next (exit code 2)."""


class FailedError(RuntimeError):
    """The request was right and failed, as with a damaged file (exit code 1)."""


def first_line(error: BaseException) -> str:
    """What an error says, without what follows: a stack, a request, a hint for somebody else.

    Example:
        >>> first_line(ValueError("too big\\nat line 3")), first_line(KeyError())
        ('too big', 'KeyError')
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
