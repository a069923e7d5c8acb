"""The two exceptions that commands turn into exit codes of their own."""


class InputError(ValueError):
    """Raised before anything compiles; the message says what is wrong, where, and what to do.

    Commands print the message as one line on stderr and exit with code 2.
    """


class NonFiniteError(RuntimeError):
    """Numbers went non-finite and the run cannot go on; commands exit with code 3."""
