"""Kinds and coercions of values, as GitHub's runner defines them.

Values are plain JSON: None, bool, int or float, str, list, dict. Source of the rules: the
runner's `EvaluationResult` and `ExpressionUtility` (comparison as in ECMA-262 5.1, 11.9.3,
except that strings compare without case and objects only by identity).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal

from headrace.expressions._errors import Opaque, OpaqueValue

ValueKind = Literal["Null", "Boolean", "Number", "String", "Array", "Object"]

_INT_EXACT_MAX = 10**15
"""Integers below this print as they are; above, 15 significant digits remain (format G15)."""
_HEX_OR_OCTAL = re.compile(r"0x([0-9a-fA-F]+)\Z|0o([0-7]+)\Z", re.ASCII)
_DECIMAL = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\Z", re.ASCII)
_INFINITY = {"Infinity": math.inf, "+Infinity": math.inf, "-Infinity": -math.inf}


def kind_of(value: Any) -> ValueKind:
    """Return the kind of *value*; anything that is not JSON counts as an object.

    Raises `OpaqueValue`, here and wherever else more than the truth of an `Opaque` is asked for.
    """
    if value is None:
        return "Null"
    if isinstance(value, bool):
        return "Boolean"
    if isinstance(value, (int, float)):
        return "Number"
    if isinstance(value, str):
        return "String"
    if isinstance(value, (list, tuple)):
        return "Array"
    if isinstance(value, Opaque):
        raise OpaqueValue(value)
    return "Object"


def is_primitive(value: Any) -> bool:
    """Tell whether *value* is null, a boolean, a number or a string."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return True
    if isinstance(value, Opaque):
        raise OpaqueValue(value)
    return False


def truthy(value: Any) -> bool:
    """Return the truth of *value*: null, false, 0, NaN and '' are false, all else is true."""
    if value is None or value is False or value == "":
        return False
    if isinstance(value, (int, float)):
        return value != 0 and value == value
    return True


def to_number(value: Any) -> float:
    """Return *value* as a number, NaN for what is none."""
    if value is None:
        return 0.0
    if isinstance(value, (bool, int, float)):
        return _float(value)
    if isinstance(value, str):
        return parse_number(value)
    if isinstance(value, Opaque):
        raise OpaqueValue(value)
    return math.nan


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def parse_number(text: str) -> float:
    """Return the number that *text* spells, 0 for blanks, NaN for anything else."""
    text = text.strip()
    if not text:
        return 0.0
    if _DECIMAL.match(text):
        return float(text)
    match = _HEX_OR_OCTAL.match(text)
    if match is None:
        return _INFINITY.get(text, math.nan)
    digits, base = (match[1], 16) if match[1] else (match[2], 8)
    if len(digits.lstrip("0")) > 11:
        return math.nan
    number = int(digits, base)
    if number >= 1 << 32:
        return math.nan
    # The runner reads these as 32-bit integers, so the upper half is negative.
    return float(number - (1 << 32) if number >= 1 << 31 else number)


def to_string(value: Any) -> str:
    """Return *value* as text: '' for null, 15 significant digits, `Array` and `Object`."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return _number_to_string(value)
    return kind_of(value)


def _number_to_string(value: float) -> str:
    if isinstance(value, int) and -_INT_EXACT_MAX < value < _INT_EXACT_MAX:
        return str(value)
    number = _float(value)
    if number == 0:
        return "0"
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    if number != number:
        return "NaN"
    return f"{number:.15g}".replace("e", "E")


def fold(text: str) -> str:
    """Return *text* for comparison without case (ordinal, one code unit to one).

    No letter outside ASCII becomes one inside it: the dotless i is no I.
    """
    return text.upper() if text.isascii() else "".join(map(_fold_char, text))


def _fold_char(char: str) -> str:
    upper = char.upper()
    if len(upper) != 1 or (upper < "\x80" and char >= "\x80"):
        return char
    return upper


def _sort_key(text: str) -> bytes:
    # Ordinal order is that of UTF-16; it differs from code points' only above the first plane.
    return fold(text).encode("utf-16-be", "surrogatepass")


def _coerce(left: Any, right: Any) -> tuple[Any, Any]:
    lkind, rkind = kind_of(left), kind_of(right)
    if lkind == rkind:
        return left, right
    if lkind in ("Boolean", "Null"):
        return _coerce(to_number(left), right)
    if rkind in ("Boolean", "Null"):
        return _coerce(left, to_number(right))
    if {lkind, rkind} == {"Number", "String"}:
        return to_number(left), to_number(right)
    return left, right


def equals(left: Any, right: Any) -> bool:
    """Return ``left == right``."""
    if isinstance(left, str) and isinstance(right, str):
        return left == right or fold(left) == fold(right)
    left, right = _coerce(left, right)
    kind = kind_of(left)
    if kind != kind_of(right):
        return False
    if kind in ("Array", "Object"):
        return left is right
    return bool(left == right)


def less(left: Any, right: Any) -> bool:
    """Return ``left < right``; false where the two cannot be compared."""
    left, right = _coerce(left, right)
    kind = kind_of(left)
    if kind != kind_of(right):
        return False
    if kind in ("Number", "Boolean"):
        return bool(left < right)
    if kind == "String":
        return _sort_key(left) < _sort_key(right)
    return False


def lookup(mapping: Mapping[str, Any], key: str, default: Any = None) -> Any:
    """Return the value under *key*, whose case does not matter; an exact match comes first."""
    try:
        return mapping[key]
    except KeyError:
        folded = fold(key)
    for name, value in mapping.items():
        if len(name) == len(key) and fold(name) == folded:
            return value
    return default
