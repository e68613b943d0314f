"""What benchmarks keep, and which of it is compared."""

from __future__ import annotations

from pathlib import Path

from bench import history
from bench.history import CEILING, DECODES, Result, compare, keep, read


def result(case: str, machine: str = "m", **ratios: float) -> Result:
    named = {name.replace("_", " "): value for name, value in ratios.items()}
    return Result(at=1.0, commit="c", machine=machine, python="3.11.2", benchmark="edge", case=case, ratios=named)


def test_what_is_kept_comes_back_and_says_commit_and_machine(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    assert read(file) == []
    keep("edge", "one", {f"rate {CEILING}": 0.70004}, file)
    keep("edge", "two", {f"CPU in {DECODES}": 5.0}, file)
    first, second = read(file)
    assert (first.case, first.ratios, second.case) == ("one", {"rate of the ceiling": 0.7}, "two")
    assert first.commit
    assert first.machine
    assert len(file.read_text(encoding="utf-8").splitlines()) == 2


def test_the_last_two_runs_of_a_case_are_compared_on_the_same_machine_only() -> None:
    found = compare(
        [
            result("a", rate_of_the_ceiling=0.1),
            result("a", rate_of_the_ceiling=0.5, CPU_in_decodes=5.0, gone=1.0),
            result("b", rate_of_the_ceiling=0.5),
            result("b", machine="another", rate_of_the_ceiling=0.9),
            result("a", rate_of_the_ceiling=0.8, CPU_in_decodes=5.2),
        ]
    )
    assert [(each.case, each.ratio, each.before, each.after, each.better) for each in found] == [
        ("a", "CPU in decodes", 5.0, 5.2, None),
        ("a", "rate of the ceiling", 0.5, 0.8, True),
    ]
    (slower,) = compare([result("a", CPU_in_decodes=5.0), result("a", CPU_in_decodes=6.0)])
    assert slower.better is False


def test_a_time_becomes_a_number_of_decodes() -> None:
    assert history.in_decodes(100.0) > history.in_decodes(1.0) > 0
