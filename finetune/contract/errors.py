"""The one exception for input that a person can mend."""


class InputError(ValueError):
    """Something given to us cannot be used; the text says what, where, and what to do.

    The text is one or two plain sentences fit for a screen. The app shows it, the command
    line prints it and exits with 2. Anything else that is raised is our own bug.
    """
