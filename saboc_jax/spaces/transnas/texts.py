"""Cells and backbones of TransNAS-Bench-101 as its API and NASLib write them."""

from saboc_jax.spaces.notations import numbers_notation, reading
from saboc_jax.spaces.transnas import macro, micro
from saboc_jax.types import Notation

_MICRO = "(0,1,2,3,0,1)"
_MACRO = "(1,2,3,4)"
# Numbers are read as the tables' tuples, which are the spaces' own texts, unless they are named.
MICRO_NOTATIONS = (
    Notation("transnas", "64-41414-0_12_301", micro.from_string),
    Notation("naslib", _MICRO, micro.from_string),
    numbers_notation(micro.CHOICES)._replace(fits=None),
)
MACRO_NOTATIONS = (
    Notation("transnas", "64-1234-basic", macro.from_string),
    Notation("naslib", _MACRO, macro.from_string),
    numbers_notation(macro.CHOICES)._replace(fits=None),
)
MICRO = micro.DECISIONS._replace(
    from_string=reading("transnas_micro", micro.from_string, _MICRO, MICRO_NOTATIONS),
    notations=MICRO_NOTATIONS,
)
MACRO = macro.DECISIONS._replace(
    from_string=reading("transnas_macro", macro.from_string, _MACRO, MACRO_NOTATIONS),
    notations=MACRO_NOTATIONS,
)
