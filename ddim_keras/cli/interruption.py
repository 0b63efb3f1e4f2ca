"""Ctrl-C during imports, which would otherwise show a traceback or turn into another error."""

import signal


def end_at_once() -> None:
    """Lets Ctrl-C end the process, status 130 in a shell, until `raise_again`.

    If it is ignored, as for commands that a script starts in the background, it stays ignored.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def raise_again() -> None:
    """Lets Ctrl-C raise KeyboardInterrupt again, after `end_at_once`."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
