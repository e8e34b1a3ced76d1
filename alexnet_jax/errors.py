"""The exceptions that are meant for the person at the keyboard."""


class UserError(Exception):
    """Something the user can fix. A command line prints its text as one line, and ends.

    The text names the value that is wrong, what was expected, and the command or field that fixes
    it.
    """

    exit_code = 1


class ConfigError(UserError):
    """A configuration that cannot be."""

    exit_code = 2
