"""Keeps what a machine has printed, as much of it as EC2 keeps; what to print is others' matter."""

# EC2 GetConsoleOutput keeps the newest 64 KB.
_KEPT_CHARACTERS = 64 * 1024


class Console:
    """A machine's serial console. Only the machines' own thread writes; any thread may read."""

    def __init__(self) -> None:
        self._text = ""

    def say(self, *lines: str) -> None:
        """Print each of `lines` on a line of its own."""
        self.show("".join(f"{line}\n" for line in lines))

    def show(self, text: str) -> None:
        """Print `text` as it is."""
        self._text = (self._text + text)[-_KEPT_CHARACTERS:]

    def text(self) -> str:
        return self._text
