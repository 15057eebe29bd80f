"""Settings of channels as people write them: `16:8:64:32:32`, `16x8x64x32x32`, `(16, 8, ...)`."""

import re

from saboc_jax.spaces.nats_sss import encoding
from saboc_jax.spaces.notations import numbers_notation, reading
from saboc_jax.types import Architecture, Notation

EXAMPLE = "16:8:64:32:32"
_SIZES = re.compile(r"[\[(]?\s*\d+(\s*[:x×,/\-]\s*\d+|\s+\d+)+\s*,?\s*[\])]?", re.A | re.I)


def read_sizes(text: str) -> Architecture:
    """Reads numbers of channels between any of the signs `: x , -` and spaces."""
    return encoding.from_string(":".join(re.findall(r"\d+", text)))


def _are_sizes(text: str) -> bool:
    """Returns whether they are channels, which are 8 or more, and not options, which are less."""
    found = _SIZES.fullmatch(text)
    return bool(found) and any(int(number) > 7 for number in re.findall(r"\d{1,9}", text))


NOTATIONS = (
    Notation("sizes", "16x8x64x32x32", read_sizes, _are_sizes),
    numbers_notation(encoding.CHOICES),
)
DECISIONS = encoding.DECISIONS._replace(
    from_string=reading("nats_sss", encoding.from_string, EXAMPLE, NOTATIONS),
    notations=NOTATIONS,
)
