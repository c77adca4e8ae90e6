"""The one error that a user is meant to read."""


class UserError(Exception):
    """A mistake that the user can mend: what is wrong, where, and how to mend it.

    The door prints the message without a traceback and exits with code 2.
    """
