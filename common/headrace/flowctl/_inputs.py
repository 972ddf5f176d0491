"""`--input`, `--input-file`, `--label`, `--payload`: text from the command line to values."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from headrace.errors import InvalidRequest, LimitExceeded

if TYPE_CHECKING:
    from headrace.plan import Plan

Command = TypeVar("Command", bound=Callable[..., Any])

FILE_BYTES_MAX = 128 * 1024 * 1024


def input_options(function: Command) -> Command:
    """Add `--input` (argument `inputs`) and `--input-file` (argument `input_file`)."""
    function = click.option(
        "--input-file",
        metavar="FILE",
        help="JSON or YAML mapping with inputs; `-` reads stdin. --input goes before it.",
    )(function)
    return click.option(
        "--input",
        "-i",
        "inputs",
        multiple=True,
        metavar="KEY=VALUE",
        help="One input, typed as the workflow declares it; KEY=@FILE reads a file.",
    )(function)


def collect_inputs(plan: Plan, inputs: Iterable[str], input_file: str | None) -> dict[str, Any]:
    """Return the checked input of a run, defaults filled in.

    Raises `InvalidDefinition` with every problem, `InvalidRequest` for what cannot be read.
    """
    from headrace.plan import check_inputs

    values, texts = given_inputs(inputs, input_file)
    return check_inputs(plan, {**values, **texts})


def given_inputs(
    inputs: Iterable[str], input_file: str | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what the file says and what `--input` says, by name. Raises `InvalidRequest`."""
    values = dict(_mapping_from(input_file)) if input_file else {}
    texts = {
        key: _read_text(text[1:]) if text.startswith("@") else text
        for key, text in _pairs(inputs, "--input")
    }
    return values, texts


def parse_json(text: str) -> Any:
    """Return the value of a JSON text. Raises `ValueError`."""
    import msgspec

    try:
        return msgspec.json.decode(text.encode())
    except msgspec.DecodeError as error:
        raise ValueError(f"not JSON: {error}") from None


def parse_labels(labels: Iterable[str]) -> dict[str, str]:
    """Return the labels of `KEY=VALUE` texts. Raises `InvalidRequest`."""
    return dict(_pairs(labels, "--label"))


def parse_payload(text: str | None) -> Any:
    """Return a signal's payload: JSON if it is JSON, else the text; `@FILE` reads a file.

    Raises `InvalidRequest` for what begins like an object or a list and is none: somebody meant it
    to be, and the run would wait on, or go on, with a text.
    """
    if text is None:
        return None
    if text.startswith("@"):
        text = _read_text(text[1:])
    try:
        return parse_json(text)
    except ValueError as error:
        if text.lstrip()[:1] in ("{", "["):
            hint = f"a text that begins with {text.lstrip()[0]} is sent as JSON too, in quotes"
            raise InvalidRequest(f"payload: {error}; {hint}") from None
        return text


def _pairs(texts: Iterable[str], option: str) -> Iterable[tuple[str, str]]:
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise InvalidRequest(f"{option} {text!r}: KEY=VALUE is expected")
        yield key, value


def read_json(name: str) -> Any:
    """Return the value in a file, JSON or YAML; ``-`` is stdin. Raises `InvalidRequest`."""
    import yaml

    text = _read_text(name)
    try:
        # YAML 1.2 is a superset of JSON; PyYAML reads 1.1, so JSON is tried first.
        return parse_json(text)
    except ValueError:
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InvalidRequest(f"{name}: neither JSON nor YAML: {error}") from error


def _mapping_from(name: str) -> Mapping[str, Any]:
    value = read_json(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRequest(f"{name}: a mapping of inputs is expected")
    return {str(key): item for key, item in value.items()}


def _read_text(name: str) -> str:
    try:
        if name == "-":
            data = sys.stdin.buffer.read(FILE_BYTES_MAX + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise InvalidRequest(f"cannot read {name}: {error.strerror or error}") from error
    if len(data) > FILE_BYTES_MAX:
        raise LimitExceeded(f"{name} has more than {FILE_BYTES_MAX} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{name} is not UTF-8 text") from error
