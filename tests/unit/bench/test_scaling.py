"""The model behind `docs/scaling.md`: it says again what was measured, and a day of it loses nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.scaling.costs import Costs, Outage, Sample, read
from bench.scaling.day import Stage, curve, simulate, stages
from bench.scaling.model import SECONDS_A_DAY, Load, Machine, plan

STAGES = ("ingest", "broker", "router", "loader", "destination")


def costs(**micros: float) -> Costs:
    cpu = dict.fromkeys(STAGES, 10.0) | micros
    outage = Outage(rate=1000, seconds=30, away=10, caught_up=1, cpu_us=cpu, others=0)
    sample = Sample(per_request=100, cpu_us=cpu, syncs=0.01, written=400, rate=1000, others=0)
    dear = Sample(
        per_request=1, cpu_us={name: 5 * cost for name, cost in cpu.items()}, syncs=0.1, written=800, rate=200, others=0
    )
    return Costs(at="", machine="", cores=2, body=800, samples=[dear, sample], outage=outage, synced_a_second=1000)


def test_costs_lie_between_those_measured_and_never_beyond_them() -> None:
    found = costs()
    assert found.cpu_us("loader", 100) == found.cpu_us("loader", 1000) == 10
    assert found.cpu_us("loader", 1) == 50
    assert 10 < found.cpu_us("loader", 10) < found.cpu_us("loader", 2) < 50
    assert found.syncs(100) == 0.01


def test_a_plan_has_cores_for_the_peak_and_names_what_does_not_fit() -> None:
    load = Load(events_a_day=86_400 * 1000, peak=2, per_request=100, sites=10, connections=3, replicas=3)
    found = plan(load, costs(), Machine(cores=4, busy=0.5))
    assert (found.mean, found.peak) == (1000, 2000)
    assert found.cores["ingest"] == pytest.approx(0.02)
    assert found.cores["loader"] == pytest.approx(0.06)
    assert found.cores["broker"] == pytest.approx(0.02 * (1 + 3) / 2 * 3)
    assert (found.brokers, found.limits) == (3, [])

    one = plan(load._replace(events_a_day=86_400 * 100_000, sites=1), costs(), Machine(cores=4, busy=0.5))
    assert [text.split(" needs ")[0] for text in one.limits] == ["a site", "a connection"]


def test_the_curve_of_a_day_has_its_events_and_its_peak() -> None:
    load = Load(events_a_day=1e9, peak=2.5)
    rate = curve(load)
    assert sum(map(rate, range(SECONDS_A_DAY))) == pytest.approx(1e9, rel=0.001)
    assert rate(SECONDS_A_DAY // 2) == pytest.approx(2.5e9 / SECONDS_A_DAY)


def test_events_wait_before_a_stage_that_does_nothing_and_come_afterwards() -> None:
    found = simulate(lambda _: 100.0, 100, [Stage("ingest", 1000), Stage("loader", 300)], away=(10, 30))
    assert found.most_waiting == {"ingest": 0, "loader": 2000}
    assert found.oldest == pytest.approx(20, abs=1)
    assert found.caught_up == pytest.approx(2000 / (300 - 100), abs=2)
    assert (found.loaded, found.left) == (10_000, 0)


def test_a_planned_day_keeps_up() -> None:
    load, machine = Load(events_a_day=1e10), Machine()
    measured = read()
    path = stages(load, measured, plan(load, measured, machine), machine)
    found = simulate(curve(load), SECONDS_A_DAY, path)
    assert found.left < load.events_a_day / SECONDS_A_DAY
    assert found.oldest <= 2


def test_the_simulation_says_again_how_long_a_measured_outage_took() -> None:
    measured = read()
    outage = measured.outage
    loader = 1e6 / outage.cpu_us["loader"]  # one process, so one core at most
    seconds = int(outage.seconds)
    found = simulate(
        lambda second: outage.rate if second < seconds else 0.0, 4 * seconds, [Stage("loader", loader)], (0, int(outage.away))
    )
    assert found.caught_up == pytest.approx(outage.caught_up, rel=0.35, abs=2)


def test_a_plan_asks_no_more_of_a_machine_than_the_measured_one_did() -> None:
    measured = read()
    # with few events a request the senders wait for answers, and the machine is not busy
    sample = max(measured.samples, key=lambda each: each.per_request)
    able = measured.cores * (1 - sample.others) / sum(sample.cpu_us.values()) * 1e6
    assert Machine().busy <= sample.rate / able <= 1.1


def test_the_page_says_what_the_model_says_of_the_measured_costs() -> None:
    page = " ".join((Path(__file__).parents[3] / "docs" / "scaling.md").read_text(encoding="utf-8").split())
    measured, load, machine = read(), Load(events_a_day=1e10), Machine()
    found = plan(load, measured, machine)
    noon = SECONDS_A_DAY // 2
    day = simulate(curve(load), SECONDS_A_DAY, stages(load, measured, found, machine), (noon, noon + 3600))
    minutes = int(day.caught_up / 60)
    sample = max(measured.samples, key=lambda each: each.per_request)
    able = measured.cores * (1 - sample.others) / sum(sample.cpu_us.values()) * 1e6
    services = sum(found.cores[stage] for stage in ("ingest", "router", "loader"))
    assert (found.machines, machine.cores, found.brokers, found.limits) == (3, 16, 6, []), "the page has these as words"
    for said in (
        f"need {services:.0f} cores at the peak, so three machines of 16",
        (
            f"the brokers {found.cores['broker']:.0f} cores on six machines that sync {round(found.syncs_a_broker, -2):,.0f} messages "
            f"and write {found.megabytes_a_broker:.0f} MB a second each"
        ),
        f"EVENTS of a day takes {found.stored_terabytes:.1f} TB",
        f"loaded {minutes // 60} hours and {minutes % 60} minutes later",
        f"the machine did {sample.rate / able:.0%}".replace("%", " %"),
        f"caught up with {measured.outage.away:.0f} seconds of outage in {measured.outage.caught_up} s",
    ):
        assert said in page, said
