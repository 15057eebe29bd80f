"""Numbers of parameters as people write them."""

import re

_UNITS = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}
_NUMBER = re.compile(r"([0-9][0-9_]*(?:\.[0-9]+)?(?:e[0-9]+)?)\s*([kmg]?)", re.IGNORECASE)


def read(flag: str, text: str) -> int:
    """Returns a number such as 6M, 6e6, 1.5k or 6000000.

    Raises:
        ValueError: if the text is none, or not whole.
    """
    match = _NUMBER.fullmatch(text.strip())
    value = float(match[1].replace("_", "")) * _UNITS[match[2].lower()] if match else -1.0
    if value < 0 or value != round(value) or value > 1e18:
        raise ValueError(f"{flag}={text}; allowed: a whole number such as 6M, 6e6 or 6000000")
    return round(value)
