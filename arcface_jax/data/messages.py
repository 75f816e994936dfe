"""Text from files and libraries, made fit for a message of one line."""


def printable(text: str) -> str:
    """Replaces control characters and broken Unicode, which names in strangers' files can have."""
    whole = text.encode("utf-8", "replace").decode("utf-8")
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in whole
    )


def reason(error: BaseException) -> str:
    """What an exception says, on one line of at most 300 characters; its type where it says
    nothing.
    """
    return printable(" ".join(str(error).split()))[:300] or type(error).__name__
