"""The one exception that is meant for the person at the keyboard."""


class UserError(Exception):
    """Something the user can mend. `main` prints its text as one line and exits with code 1.

    The text names the value that is wrong, what was expected, and the command or field that mends
    it.
    """
