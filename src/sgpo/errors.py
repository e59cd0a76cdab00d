"""The one exception that means: the input is wrong, and this message says how to mend it."""


class InputError(ValueError):
    """Bad input from a user: a file, a row, a key or a value.

    The command line prints the message alone and exits with code 2. The message names the file, row, key or
    argument, the value found, and what is allowed. It is a `ValueError`, so library users need not import it.
    """
