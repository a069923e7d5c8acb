"""The exceptions that commands turn into exit codes of their own."""


class InputError(ValueError):
    """Raised before anything compiles; the message says what is wrong, where, and what to do.

    Commands print the message as one line on stderr and exit with code 2.
    """


class NonFiniteError(RuntimeError):
    """Numbers went non-finite and the run cannot go on; commands exit with code 3."""


class DivergedError(RuntimeError):
    """The policy has moved further than the config allows; commands exit with code 3."""


class ResourceError(RuntimeError):
    """Disk or memory ran out, or a folder is gone; commands exit with code 4.

    The message says what could not be done, what is saved, and what to do.
    """
