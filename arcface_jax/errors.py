"""The one exception that a person, rather than a programmer, is meant to read."""


class InputError(ValueError):
    """Bad input: an argument, a file or a record that cannot be used.

    The message is one line that names the argument, file or record, its value,
    and what to do. Commands print it without a traceback and exit with status 2.
    """
