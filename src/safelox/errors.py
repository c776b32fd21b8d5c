"""The errors that a user can cause: their message says what was wrong, where, and what to do."""


class SafeloxError(Exception):
    """Something that the user can mend; the command line prints its message without a traceback and exits 1."""

    exit_code = 1


class UsageError(SafeloxError):
    """An option or an argument has a value that makes no sense (exit code 2)."""

    exit_code = 2


class CheckpointError(SafeloxError):
    """A model on disk or on the hub cannot be read; the message names the file or the tensor."""


class PairingError(SafeloxError):
    """Two checkpoints do not belong together; the message lists every problem that was found."""


class TargetError(SafeloxError):
    """The result cannot be written where it was asked for."""


class DataError(SafeloxError):
    """A data set is missing or cannot be read; the message names the file and the line."""


class PrerequisiteError(SafeloxError):
    """A package, a program or a key is missing; the message says how to get it."""


class JudgeError(SafeloxError):
    """A judge cannot go on: its server, its key or its budget; the verdicts that it gave before are kept."""


class ServerError(SafeloxError):
    """A server that models are asked through cannot be reached, or does not answer as it should."""
