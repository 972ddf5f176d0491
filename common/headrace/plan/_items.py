"""Items of loops: lists as they are, matrices as GitHub expands them."""

from __future__ import annotations

from itertools import product
from typing import Any

from headrace.errors import InvalidRequest
from headrace.plan._graph import Loop

ITEMS_MAX = 100_000
MATRIX_MAX = 256
"""GitHub's own limit of jobs a matrix."""


def expand_items(loop: Loop, value: Any) -> tuple[list[Any], list[str] | None]:
    """Return (items, path labels or None for indexes) of *loop* from its evaluated `items`.

    Raises `InvalidRequest` when the value is not what the kind of loop needs.
    """
    if loop.kind == "matrix":
        items = matrix_items(value)
        return items, _labels(items)
    if isinstance(value, dict):
        value = [{"key": key, "value": item} for key, item in value.items()]
    if not isinstance(value, list):
        raise InvalidRequest(f"for-each needs a list, not {type(value).__name__}: {value!r:.80}")
    if len(value) > ITEMS_MAX:
        raise InvalidRequest(f"for-each over {len(value)} items; the limit is {ITEMS_MAX}")
    return value, None


def matrix_items(matrix: Any) -> list[dict[str, Any]]:
    """Return a matrix's combinations, by GitHub's rules for `include` and `exclude`.

    Combinations are in the order of the axes, the last axis fastest. An `include` entry extends
    every combination whose *original* axis values it does not change, else it is added.
    """
    if not isinstance(matrix, dict):
        raise InvalidRequest(f"a matrix is a mapping, not {type(matrix).__name__}")
    axes = {key: axis for key, axis in matrix.items() if key not in ("include", "exclude")}
    for key, axis in axes.items():
        if not isinstance(axis, list) or not axis:
            raise InvalidRequest(f"matrix axis {key!r} needs a list with at least one value")
    total = 1
    for axis in axes.values():
        total *= len(axis)
        if total > ITEMS_MAX:
            raise InvalidRequest(f"a matrix of over {ITEMS_MAX} combinations")
    combinations = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    if not axes:
        combinations = []
    exclude = _entries(matrix, "exclude")
    for entry in exclude:
        for key in entry.keys() - axes.keys():
            raise InvalidRequest(f"matrix exclude: there is no axis {key!r}")
    kept = [c for c in combinations if not any(_matches(c, entry) for entry in exclude)]
    items = [dict(c) for c in kept]
    for entry in _entries(matrix, "include"):
        extended = False
        for original, item in zip(kept, items, strict=False):
            if all(_same(original[key], value) for key, value in entry.items() if key in original):
                item.update(entry)
                extended = True
        if not extended or not kept:
            items.append(dict(entry))
    if not items:
        raise InvalidRequest("the matrix has no combination left")
    if len(items) > MATRIX_MAX:
        raise InvalidRequest(f"a matrix of {len(items)} jobs; the limit is {MATRIX_MAX}")
    return items


def _entries(matrix: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = matrix.get(key) or []
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise InvalidRequest(f"matrix {key!r} needs a list of mappings")
    return found


def _matches(combination: dict[str, Any], entry: dict[str, Any]) -> bool:
    return all(_same(combination.get(key), value) for key, value in entry.items())


def _same(left: Any, right: Any) -> bool:
    """Compare JSON: 1 is 1.0, but not true; to Python both would be."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left == right)


def _labels(items: list[dict[str, Any]]) -> list[str]:
    labels: list[str] = []
    seen: set[str] = set()
    for index, item in enumerate(items):
        label = plain = ",".join(_word(value) for value in item.values()).replace("/", "_")[:80]
        number = index
        while label in seen:
            label = f"{plain},{number}"
            number += 1
        seen.add(label)
        labels.append(label)
    return labels


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
