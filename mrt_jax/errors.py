"""The one exception that means: the input or the command line is at fault."""


class InputError(ValueError):
    """Raised before anything compiles; the message says what is wrong, where, and what to do.

    Commands print the message as one line on stderr and exit with code 2.
    """
