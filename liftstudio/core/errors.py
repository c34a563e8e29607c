"""The one exception a user is meant to see."""


class InputError(Exception):
    """Something the user gave is wrong: one line that names it and says what to do (exit code 2)."""
