"""The exception for bad input."""


class InputError(Exception):
    """Bad input from the user; the message is one line that names it and says what to do (exit code 2)."""
