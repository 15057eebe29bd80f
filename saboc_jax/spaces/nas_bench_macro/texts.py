"""Networks of NAS-Bench-Macro as people write them: `02120012` or a list of its numbers."""

import re

from saboc_jax.spaces.nas_bench_macro import encoding
from saboc_jax.spaces.notations import numbers_notation, reading
from saboc_jax.types import Notation

EXAMPLE = "02120012"
NOTATIONS = (
    Notation(
        "digits",
        "0-2-1-2-0-0-1-2",
        lambda text: encoding.from_string(re.sub(r"[\s\-_:/|]", "", text)),
        re.compile(r"\d([\s\-_:/|]+\d)+").fullmatch,
    ),
    numbers_notation(encoding.CHOICES),
)
DECISIONS = encoding.DECISIONS._replace(
    from_string=reading("nas_bench_macro", encoding.from_string, EXAMPLE, NOTATIONS),
    notations=NOTATIONS,
)
