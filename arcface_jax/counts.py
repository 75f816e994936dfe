"""Numbers of things in messages: "1 image is", "2,000 images are"."""

_SINGULAR = {"are": "is", "have": "has", "were": "was", "do": "does"}


def number_of(count: int | float, noun: str, verb: str = "") -> str:
    """A number with its noun, as it agrees with the number, and a verb that does.

    Args:
      count: the number.
      noun: of one; its last word is made plural unless the number is one.
      verb: of several, such as are; its last word becomes is where the number is one.

    Returns: as `number_of(1, "new class", "are")` is "1 new class is".
    """
    one = round(count) == 1
    start, _, last = verb.rpartition(" ")
    verbs = [start, _SINGULAR.get(last, f"{last}s") if one else last] if verb else []
    return " ".join(filter(None, [f"{count:,.0f}", noun if one else plural(noun), *verbs]))


def plural(noun: str) -> str:
    """A noun as it is of several, by the rules of English that nouns here need."""
    if noun.endswith("person"):
        return f"{noun.removesuffix('person')}people"
    if noun.endswith("y") and noun[-2:-1] not in ("a", "e", "o", "u"):
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "x", "ch", "sh")) else f"{noun}s"
