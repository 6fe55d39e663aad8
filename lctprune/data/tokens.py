"""Split text into tokens: words, or characters in scripts that put no spaces between words.

A run records by which rule its text was split, and so does the model.json of an exported network.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Literal, NamedTuple

from lctprune.errors import DataError

# Ranges of Unicode 14, for a character class of Python's `re`, which knows no scripts.
# Letters of Chinese, Japanese, Thai, Lao, Burmese, Khmer and other scripts without spaces between words
_LETTERS = (
    r"\u0e01-\u0e30\u0e32\u0e33\u0e40-\u0e46\u0e81-\u0eb0\u0eb2\u0eb3\u0ebd-\u0ec6\u0edc-\u0edf\u1000-\u102a\u103f"
    r"\u1050-\u1055\u105a-\u105d\u1061\u1065\u1066\u106e-\u1070\u1075-\u1081\u108e\u1780-\u17b3\u17d7\u17dc"
    r"\u17f0-\u17f9\u1950-\u19c9\u19da\u1a20-\u1a54\u1aa7\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3038-\u303c"
    r"\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\ua48c"
    r"\ua9e0-\ua9e4\ua9e6-\ua9ef\ua9fa-\ua9fe\uaa60-\uaa76\uaa7a\uaa7e-\uaaaf\uaab1\uaab5\uaab6\uaab9-\uaabd\uaac0"
    r"\uaac2-\uaadd\uf900-\ufad9\uff66-\uff9f\U00017000-\U00018cd5\U0001b000-\U0001b2fb\U00020000-\U0002ebe0"
    r"\U0002f800-\U0002fa1d\U00030000-\U0003134a"
)
# marks that follow such letters: vowels, tones, and selectors of a variant
_MARKS = (
    r"\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ecd\u102b-\u103e\u1056-\u1059\u105e-\u1060"
    r"\u1062-\u1064\u1067-\u106d\u1071-\u1074\u1082-\u108d\u108f\u109a-\u109d\u17b4-\u17d3\u17dd\u1a55-\u1a7f"
    r"\u302a-\u302d\u3099\u309a\ua9e5\uaa7b-\uaa7d\uaab0\uaab2-\uaab4\uaab7\uaab8\uaabe\uaabf\uaac1\ufe00-\ufe0f"
    r"\U000e0100-\U000e01ef"
)
# marks within words of other scripts, with the letters between them; the joiners of Persian, Hindi and others
_WORD_MARKS = (
    r"\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670"
    r"\u06d6-\u06dc\u06df-\u06e8\u06ea-\u06ed\u0711-\u07f3\u07fd\u0816-\u082d\u0859-\u085b\u0898-\u08e1\u08e3-\u0963"
    r"\u0981-\u09e3\u09fe-\u0a75\u0a81-\u0ae3\u0afa-\u0b63\u0b82-\u0bd7\u0c00-\u0c63\u0c81-\u0c83\u0cbc-\u0d4d"
    r"\u0d57-\u0d63\u0d81-\u0df3\u0f18\u0f19\u0f35\u0f37\u0f39\u0f3e-\u0f84\u0f86-\u0fbc\u0fc6\u135d-\u135f"
    r"\u1712-\u1734\u1752-\u1773\u180b-\u180d\u180f-\u193b\u1a17-\u1a1b\u1ab0-\u1b44\u1b6b-\u1b73\u1b80-\u1bf3"
    r"\u1c24-\u1c37\u1cd0-\u1cd2\u1cd4-\u1dff\u200c\u200d\u20d0-\u20f0\u2cef-\u2cf1\u2d7f-\u2dff\u302a-\u302f"
    r"\ua66f-\ua672\ua674-\ua67d\ua69e-\ua6f1\ua802-\ua827\ua82c\ua880-\ua8c5\ua8e0-\ua8f1\ua8ff-\ua92d\ua947-\ua953"
    r"\ua980-\ua9c0\uaa29-\uaa4d\uaaeb-\uaaef\uaaf5\uaaf6\uabe3-\uabea\uabec\uabed\ufb1e\ufe00-\ufe0f\ufe20-\ufe2f"
)
_PLAIN = rf"[^\W{_LETTERS}]+"  # letters and digits of all other scripts
_WORD = rf"{_PLAIN}(?:[{_WORD_MARKS}]+(?:{_PLAIN})?)*"
_INVISIBLE = r"\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff"  # they separate, as spaces do


class Tokenizer(NamedTuple):
    """A rule that splits text into tokens.

    Attributes:
        name: name by which a run records the rule.
        pattern: pattern of a token, for Python's `re.findall`.
        normal_form: normal form of Unicode that the text is brought into first; None for the text as it is.
    """

    name: str
    pattern: str
    normal_form: Literal["NFKC"] | None

    @property
    def steps(self) -> str:
        """What is done to a text, in words for model.json."""
        first = f"bring the text into the normal form {self.normal_form}, " if self.normal_form else ""
        apostrophe = "write ' for each \u2019, " if self.normal_form else ""
        return f"{first}lower-case it, {apostrophe}split it by the pattern (Python's re.findall)"

    def tokens(self, text: str) -> list[str]:
        """Split a text into words, characters and punctuation marks, in lower case."""
        if self.normal_form:
            text = unicodedata.normalize(self.normal_form, text).lower().replace("\u2019", "'")
        else:
            text = text.lower()
        return re.findall(self.pattern, text)


# A word (don't is one) with its combining marks; or a letter with its marks, in scripts without spaces between words;
# or a single other character. NFKC makes one character of those that are written alike: full-width and half-width
# forms, composed and decomposed letters.
TOKENIZER = Tokenizer(
    "words-or-characters", rf"{_WORD}(?:'{_WORD})*|[{_LETTERS}][{_MARKS}]*|[^\w\s{_INVISIBLE}][\ufe0f\u200d]*", "NFKC"
)
FIRST_TOKENIZER = "words"  # of runs that record none
TOKENIZERS = {each.name: each for each in (Tokenizer(FIRST_TOKENIZER, r"\w+(?:'\w+)*|[^\w\s]", None), TOKENIZER)}


def tokenizer_of(name: str | None) -> Tokenizer:
    """Return a tokenizer by its name, the present one for None.

    Raises:
        DataError: this version knows no such tokenizer.
    """
    if name is None:
        return TOKENIZER
    if name not in TOKENIZERS:
        raise DataError(
            f"the run's text was split into tokens by {name!r}, which this version of lctprune does not know (it knows "
            f"{', '.join(TOKENIZERS)}); use the version that trained it"
        )
    return TOKENIZERS[name]
