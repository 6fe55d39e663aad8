r"""Show names of files, folders, classes and columns as they are, but never as markup, terminal control or a formula.

Whoever makes a data set or a run chooses its names, and they may hold anything: an escape sequence, a mark that
reverses the reading direction, a line feed, bytes that are not UTF-8.
"""

from __future__ import annotations

import os
import re
import shlex
import unicodedata

from lctprune.errors import ConfigError

# control characters, marks of reading direction, line separators, invisible and undefined characters, and surrogates,
# which stand for bytes that are not UTF-8; joiners (U+200C, U+200D) are left, as words and emoji need them
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufdd0-\ufdef\ufeff\ufff0-\ufffb"
    "\ufffe\uffff\ud800-\udfff\U000e0000-\U000e007f]"
)
_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")  # also the full-width forms, which some spreadsheets take alike
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?%?", re.ASCII)


def visible(text: str) -> str:
    r"""Return a text for people, in which hidden characters are written out, as \x1b or \u202e.

    Args:
        text: any text, such as a path or the name of a class.
    """
    return _HIDDEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def shell_word(text: object) -> str:
    r"""Return one word of a command line to copy: quoted where a shell needs it, with $'\x1b' for hidden characters.

    Args:
        text: path or other argument.
    """
    word = str(text)
    if not _HIDDEN.search(word):
        return shlex.quote(word)
    escaped = re.sub(r"[\\']", r"\\\g<0>", word)
    return f"$'{_HIDDEN.sub(lambda match: _bytes(match[0]), escaped)}'"


def spreadsheet_text(text: str) -> str:
    """Return a text for a cell of a CSV file, with ' in front of what a spreadsheet would compute; numbers stay.

    Args:
        text: any text.
    """
    shown = visible(text)
    return f"'{shown}" if shown.startswith(_FORMULA) and not _NUMBER.fullmatch(shown) else shown


def is_utf8(text: str) -> bool:
    """Return whether a name, as Python gives it, is UTF-8: it has no surrogates, which stand for other bytes."""
    return text.isascii() or not re.search("[\ud800-\udfff]", text)


def is_text(name: str) -> bool:
    """Return whether a name holds neither control characters nor what is no character."""
    return not any(unicodedata.category(character) in ("Cc", "Cs") for character in name)


def require_utf8(text: str, what: str) -> None:
    """Refuse a name that is not UTF-8: such names cannot be written to the files of a run.

    Args:
        text: name or path, as Python gives it.
        what: what it names, for the message.

    Raises:
        ConfigError: the name is not UTF-8.
    """
    if not is_utf8(text):
        raise ConfigError(f"{what} {visible(text)!r} is not UTF-8; rename it")


def _bytes(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))
