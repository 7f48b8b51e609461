"""Names that people take for each other, and how to show them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable


def visible(name: str) -> str:
    """A name as it is, or with quotes and escapes where one would not see what it holds.

    >>> print(visible("cat"), visible("cat "), visible("a\\nb"))
    cat 'cat ' 'a\\nb'
    """
    return name if name.isprintable() and name == name.strip() and name else repr(name)


def spelled(name: str) -> str:
    """A name in quotes, all letters beyond ASCII also by number.

    >>> spelled("cat"), spelled("caf\\u00e9")
    ("'cat'", "'café' (caf\\\\xe9)")
    """
    return repr(name) if name.isascii() else f"{name!r} ({ascii(name)[1:-1]})"


def is_text(name: str) -> bool:
    """Whether a name can be written: that of a file may hold bytes that are no UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def composed(name: str) -> str:
    """The name with letters and accents in one: systems differ in that (NFC, NFD), people see no difference."""
    return unicodedata.normalize("NFC", name)


def seen(name: str) -> str:
    """What of a name can be seen: blanks count once and not at the ends, characters without a shape not at all."""
    return " ".join("".join(char for char in composed(name) if unicodedata.category(char) != "Cf").split())


def outline(name: str) -> str:
    """What stays of a name where case and the form of letters do not count."""
    return seen(unicodedata.normalize("NFKC", name).casefold())


def difference(name: str, other: str) -> str:
    """In what two names of the same `outline` differ, for people."""
    if composed(name) == composed(other):
        return "how accents are written (composed or decomposed)"
    if "".join(name.split()) == "".join(other.split()):
        return "blanks"
    if seen(name) == seen(other):
        return "characters that cannot be seen"
    return "upper and lower case" if seen(name).casefold() == seen(other).casefold() else "letters that look alike"


def alike(names: Iterable[str], others: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of a name and one of the others with the same `outline`.

    >>> alike(["Cat", "dog"], ["cat", "eel"])
    [('Cat', 'cat')]
    """
    by_outline = {outline(other): other for other in others}
    return [(name, by_outline[outline(name)]) for name in names if outline(name) in by_outline]


def same_to_see(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of names between which no difference can be seen.

    >>> same_to_see(["cat", "dog", "cat "])
    [('cat', 'cat ')]
    """
    first: dict[str, str] = {}
    return [(first[key], name) for name in names if first.setdefault(key := seen(name), name) != name]
