"""Environment variables in a project file: `${NAME}`, `${NAME:-default}`, and `$$` for a dollar sign."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from shared.errors import ConfigError, Problem
from shared.project.functions import with_code, without_code

_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\})")


def interpolate(document: Any, environment: Mapping[str, str] | None = None) -> Any:
    """Puts `${NAME}` and `${NAME:-default}` in, in every string value but the code of functions; `$$` is a dollar sign.

    Raises:
        ConfigError: naming each place whose variable is not set.
    """
    source = os.environ if environment is None else environment
    problems: list[Problem] = []
    bare, code = without_code(document) if isinstance(document, dict) else (document, {})
    result = _interpolate(bare, source, "", problems)
    if problems:
        raise ConfigError(problems)
    return with_code(result, code) if code else result


def required_variables(document: Any) -> set[str]:
    """Returns the names of variables that are used without a default, but for the code of functions."""
    if isinstance(document, dict):
        document, _ = without_code(document)
        return set().union(*(required_variables(item) for item in document.values()))
    if isinstance(document, list):
        return set().union(*(required_variables(item) for item in document))
    if not isinstance(document, str):
        return set()
    return {found["name"] for found in _VARIABLE.finditer(document) if found["name"] and found["default"] is None}


def _interpolate(value: Any, source: Mapping[str, str], path: str, problems: list[Problem]) -> Any:
    if isinstance(value, dict):
        return {key: _interpolate(item, source, f"{path}.{key}".lstrip("."), problems) for key, item in value.items()}
    if isinstance(value, list):
        return [_interpolate(item, source, f"{path}[{index}]", problems) for index, item in enumerate(value)]
    if not isinstance(value, str) or "$" not in value:
        return value

    def replace(match: re.Match[str]) -> str:
        name = match["name"]
        if not name:  # the other branch of the pattern: $$
            return "$"
        if name in source:
            return source[name]
        if match["default"] is None:
            problems.append(Problem(path, f"environment variable {name} is not set; set it or write ${{{name}:-default}}"))
            return ""
        return match["default"]

    return _VARIABLE.sub(replace, value)
