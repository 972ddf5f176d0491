"""The expression language of GitHub Actions: ``${{ github.ref == 'refs/heads/main' }}``.

Pure: contexts and functions are handed in. Evaluation is bounded in time, depth and memory; each
limit is a constant that the error names. Errors are `ExpressionError`, worded as GitHub's.
"""

from headrace.expressions._errors import (
    DEPTH_MAX,
    LENGTH_MAX,
    RESULT_LENGTH_MAX,
    TEMPLATE_LENGTH_MAX,
    VALUE_DEPTH_MAX,
    WORK_MAX,
    ExpressionError,
    Opaque,
    OpaqueValue,
)
from headrace.expressions._expression import (
    Expression,
    evaluate_template,
    parse,
    parse_condition,
    parse_template,
    resolve,
    template_expressions,
)
from headrace.expressions._functions import BUILTIN, STATUS
from headrace.expressions._values import fold, kind_of, lookup, to_number, to_string, truthy

BUILTIN_FUNCTIONS = frozenset(BUILTIN)
"""Names, in lower case, of the functions that every expression has."""
STATUS_FUNCTIONS = frozenset(STATUS)
"""Names, in lower case, of the functions that only conditions have."""

__all__ = [
    "BUILTIN_FUNCTIONS",
    "DEPTH_MAX",
    "LENGTH_MAX",
    "RESULT_LENGTH_MAX",
    "STATUS_FUNCTIONS",
    "TEMPLATE_LENGTH_MAX",
    "VALUE_DEPTH_MAX",
    "WORK_MAX",
    "Expression",
    "ExpressionError",
    "Opaque",
    "OpaqueValue",
    "evaluate_template",
    "fold",
    "kind_of",
    "lookup",
    "parse",
    "parse_condition",
    "parse_template",
    "resolve",
    "template_expressions",
    "to_number",
    "to_string",
    "truthy",
]
