"""An error is masked with all that led to it, and libraries of others say nothing below info."""

from __future__ import annotations

import io
import logging
import sys
import traceback

import pytest

from shared.errors import ConfigError, Problem
from shared.reading.mask import Mask
from shared.telemetry import logs

SECRET = "planted-7c1f-a93e"


def test_an_error_its_problems_and_the_errors_that_led_to_it_tell_no_secret() -> None:
    mask = Mask([SECRET])
    with pytest.raises(ConfigError) as raised:
        try:
            raise ValueError(f"refused {SECRET}", b"sent " + SECRET.encode(), {"header": [SECRET]})
        except ValueError as driver:
            raise ConfigError([Problem("destinations.one", f"no host {SECRET}")]) from driver
    mask.error(raised.value)
    assert SECRET not in f"{raised.value} {raised.value.__cause__} {vars(raised.value)!r}"
    assert isinstance(raised.value.problems[0], Problem)
    group = ExceptionGroup("several", [KeyError(SECRET), OSError(2, SECRET)])
    mask.error(group)
    assert SECRET not in "".join(traceback.format_exception(group))


@pytest.mark.parametrize("level", ["debug", "info", "error"])
def test_a_service_that_is_asked_for_debug_does_not_let_drivers_tell_what_they_send(
    level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, written = logging.getLogger(), io.StringIO()
    handlers, before = root.handlers[:], root.level
    monkeypatch.setattr(sys, "stderr", written)
    try:
        logs.configure("test", level, "json")
        logging.getLogger("botocore.auth").debug("a driver's token")
        logging.getLogger("loader.anything").debug("ours")
    finally:
        root.handlers[:] = handlers
        root.setLevel(before)
        for package in logs.OWN:
            logging.getLogger(package).setLevel(logging.NOTSET)
    assert "a driver's token" not in written.getvalue()
    assert ("ours" in written.getvalue()) == (level == "debug")
