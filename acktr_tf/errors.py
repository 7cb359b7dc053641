"""The two ways a command ends badly, and the exit status of each."""


class UserError(Exception):
    """Bad input: one line that names what was received and what is accepted.

    Commands print the message and end with exit status 2. Nothing was overwritten.
    """

    exit_status = 2


class RunError(Exception):
    """A fault while running (a non-finite loss, a dead simulator, a full disk).

    Commands print the message, which says what of the run is safe, and end with exit
    status 1.
    """

    exit_status = 1
