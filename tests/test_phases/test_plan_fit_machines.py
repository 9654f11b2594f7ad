"""Which machine is planned among those of several providers, and why; what it costs at worst; what is asked before anything is spent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from forge.errors import Interrupted, MissingAccess, NoCapacity, OverBudget
from forge.lease import SLACK
from forge.phase import Rehearsal
from forge.phases.plan_fit import phase
from forge.phases.plan_fit.forecast import LEASED
from forge.phases.plan_fit.settings import PlanFitSettings
from forge.phases.plan_fit.speed import adapter_tokens_per_second
from forge.records import MachineRow, Plan, read_record
from forge.testing import CountingMoney, PhaseRun, run_phase
from tests.test_phases.market import Market, gpu
from tests.test_phases.planned_world import World, rehearsed

SEVEN_B = "Qwen/Qwen2.5-7B-Instruct"
H100 = {"gpu": "NVIDIA H100", "gpu_memory_gib": 80.0, "memory_gib": 256}


@pytest.fixture
def market(tmp_path: Path) -> Market:
    """Three providers: one with several sizes, one dear, one without anything."""
    made = Market(tmp_path / "market")
    made.put("cloud", gpu("cloud", "a10g", 1.2), gpu("cloud", "t4", 0.5, gpu="NVIDIA T4", gpu_memory_gib=16, bf16=False),
             gpu("cloud", "a10g spot", 0.4, spot=True), gpu("cloud", "a10g west", 1.2, region="west"))
    made.put("palace", gpu("palace", "h100", 60.0, **H100))
    made.put("empty")
    return made


def fit(tmp_path: Path, market: Market, *, base: str = SEVEN_B, budget: float = 50.0, tokens: int = 400_000, where: str = "run", **more: Any) -> PhaseRun:
    world = World(tmp_path / "in")
    world.contract = {"base": base, "tokens": {"train": tokens}}
    corpus = tmp_path / "Station Handbook"
    corpus.mkdir(parents=True, exist_ok=True)
    more.setdefault("rehearse", rehearsed())
    more["settings"] = PlanFitSettings(**more.pop("settings", {}))
    return run_phase(
        phase, tmp_path / where, inputs=world.write(), corpus=corpus, plugin_dirs=(market.folder,), money=CountingMoney(int(budget * 1e6)), **more
    )


def plan_of(run: PhaseRun) -> Plan:
    return read_record(run.out / "plan.json", Plan)


def row(plan: Plan, offer: str) -> MachineRow:
    return next(one for one in plan.machines if one.offer == offer)


# --- the choice ------------------------------------------------------------------------------------------------


def test_the_cheapest_machine_at_p90_that_fits_is_planned_and_every_other_has_its_reason(tmp_path: Path, market: Market) -> None:
    run = fit(tmp_path, market)
    plan = plan_of(run)
    assert (plan.provider, plan.offer, plan.gpu, plan.usd_per_hour) == ("cloud", "a10g", "NVIDIA A10G", 1.2)
    assert {one.offer: one.verdict for one in plan.machines if one.offer} == {
        "a10g": "chosen", "a10g west": "alternate", "a10g spot": "rejected", "t4": "rejected", "h100": "rejected", "cpu": "rejected"}
    assert "of GPU memory, has 16" in row(plan, "t4").reason
    assert "spot" in row(plan, "a10g spot").reason
    assert row(plan, "h100").reason.startswith("too dear: $")
    assert "GiB of memory, has" in row(plan, "cpu").reason
    assert next(one.reason for one in plan.machines if one.provider == "empty") == "offers nothing that is large enough"
    assert plan.alternates == ("a10g west",)
    page = (run.out / "plan.md").read_text(encoding="utf-8")
    for part in ("| cloud | a10g | NVIDIA A10G, 22.3 GiB | 32 GiB | 1.20 |", "**chosen**: the cheapest at P90 of 2 that fit", "- price: list of 2026-07-20",
                 "- when it cannot be had: a10g west", "- proven: a10g may be started: dry run", "- at worst: $"):
        assert part in page


def test_a_machine_that_costs_more_an_hour_is_taken_when_the_whole_lease_costs_less(tmp_path: Path, market: Market) -> None:
    market.put("palace", gpu("palace", "h100", 2.0, **H100))
    plan = plan_of(fit(tmp_path, market))
    assert plan.offer == "h100"
    assert row(plan, "h100").usd_p90 < row(plan, "a10g").usd_p90
    assert row(plan, "h100").hours_p50 < row(plan, "a10g").hours_p50
    assert "dearer at P90" in row(plan, "a10g").reason


def test_this_machine_is_planned_when_it_is_enough_and_others_say_that_they_are_not_needed(tmp_path: Path, market: Market) -> None:
    plan = plan_of(fit(tmp_path, market, base="scratch"))
    assert (plan.provider, plan.offer, plan.worst_usd, plan.alternates) == ("local", "cpu", 0.0, ())
    assert row(plan, "cpu").reason == "this machine is enough, and free"
    assert row(plan, "a10g").reason == "not needed: what is free is enough"
    assert market.lines("cloud", "preflights") == [], "nothing is asked to be started"


def test_a_machine_that_makes_less_than_half_of_the_training_in_its_minutes_is_too_slow(tmp_path: Path, market: Market) -> None:
    market.put("palace", gpu("palace", "h100", 5.0, **H100))
    plan = plan_of(fit(tmp_path, market, settings={"train_minutes": 15}))
    assert plan.offer == "h100"
    assert row(plan, "a10g").reason.startswith("too slow: ")


def test_of_machines_that_are_all_too_slow_the_one_that_trains_most_is_planned_and_says_so(tmp_path: Path, market: Market) -> None:
    market.put("palace")
    plan = plan_of(fit(tmp_path, market, settings={"train_minutes": 10}))
    assert plan.offer == "a10g"
    assert row(plan, "a10g").reason.startswith("too slow: ")
    assert "plan_fit.train_minutes=10 ends it there" in plan.reasons["epochs"]


def test_several_gpus_are_counted_as_faster_and_the_page_says_from_what(tmp_path: Path, market: Market) -> None:
    two, four = (gpu("cloud", f"a10g x{count}", 1.2 * count, gpus=count) for count in (2, 4))
    one = gpu("cloud", "a10g", 1.2)
    rates = [adapter_tokens_per_second(7_615_000_000, offer, "bf16") for offer in (one, two, four)]
    assert rates[1] == pytest.approx(1.85 * rates[0])
    assert rates[2] == pytest.approx(1.85**2 * rates[0])
    market.put("cloud", two)
    assert "2 GPUs as 1.9 (two H200 made 1.97" in (fit(tmp_path, market).out / "plan.md").read_text(encoding="utf-8")


def test_a_gpu_whose_memory_nobody_tells_is_planned_where_it_is_asked_for(tmp_path: Path, market: Market) -> None:
    market.put("cloud", gpu("cloud", "partition gpu", 1.0, gpu="", gpu_memory_gib=0.0))
    run = fit(tmp_path, market, settings={"provider": "cloud"})
    assert plan_of(run).offer == "partition gpu"
    assert "of an unknown number of GiB" in (run.out / "plan.md").read_text(encoding="utf-8")


# --- what the user said ----------------------------------------------------------------------------------------


def test_a_named_provider_is_the_only_one_asked_besides_this_machine(tmp_path: Path, market: Market) -> None:
    plan = plan_of(fit(tmp_path, market, budget=900, settings={"provider": "palace"}))
    assert (plan.provider, plan.offer) == ("palace", "h100")
    assert market.lines("cloud", "asked") == []
    assert next(one.reason for one in plan.machines if one.provider == "cloud") == "not asked: plan_fit.provider is palace"
    assert (row(plan, "cpu").verdict, row(plan, "cpu").reason) == ("rejected", "not asked for: plan_fit.provider is palace")
    assert row(plan, "h100").reason == "the only one that fits"


def test_machines_over_the_hourly_limit_are_left_out(tmp_path: Path, market: Market) -> None:
    market.put("palace", gpu("palace", "h100", 3.0, **H100))
    plan = plan_of(fit(tmp_path, market, settings={"max_hourly_usd": 2}))
    assert plan.offer == "a10g"
    assert row(plan, "h100").reason == "over --max-hourly 2"


def test_spot_machines_are_compared_only_when_asked_for_and_planned_with_the_cost_of_going_on_elsewhere(tmp_path: Path, market: Market) -> None:
    plans = {mode: plan_of(fit(tmp_path, market, settings={"spot": mode}, where=mode)) for mode in ("never", "auto", "only")}
    assert [(plan.offer, plan.spot) for plan in plans.values()] == [("a10g", False), ("a10g spot", True), ("a10g spot", True)]
    spot, always = row(plans["auto"], "a10g spot"), row(plans["auto"], "a10g")
    assert spot.usd_p90 / spot.usd_per_hour > always.usd_p90 / always.usd_per_hour, "more hours at P90"
    assert row(plans["only"], "a10g").reason == "not a spot machine: --spot only"


def test_a_rehearsal_asks_nobody_else(tmp_path: Path, market: Market) -> None:
    plan = plan_of(fit(tmp_path, market, dry_run=True))
    assert plan.provider == "local"
    assert market.lines("cloud", "asked") == []


# --- gates -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", ["auto", "cloud", "palace"])
def test_a_worst_case_beyond_the_budget_is_refused_on_every_provider_before_anything_is_asked_to_start(
    tmp_path: Path, market: Market, provider: str
) -> None:
    seen: list[dict[str, Path]] = []
    with pytest.raises(OverBudget) as caught:
        fit(tmp_path, market, budget=1.0, settings={"provider": provider}, rehearse=rehearsed(seen))
    assert "of $1.00" in caught.value.why
    assert seen == []


def test_the_worst_case_alone_refuses_a_plan_whose_p90_fits(tmp_path: Path, market: Market) -> None:
    plan = plan_of(fit(tmp_path, market))
    assert plan.worst_usd == pytest.approx(1.2 * plan.deadline_seconds / 3600 * SLACK)
    between = (plan.cost_p90_usd / 0.9 + plan.worst_usd) / 2
    assert plan.cost_p90_usd < 0.9 * between < between < plan.worst_usd
    with pytest.raises(OverBudget, match="does not fit the budget"):
        fit(tmp_path, market, budget=between, where="less")


def test_a_machine_without_a_price_is_refused_and_never_counted_as_free(tmp_path: Path, market: Market) -> None:
    market.put("cloud", gpu("cloud", "unknown", 0.0, price_source=""))
    with pytest.raises(NoCapacity) as caught:
        fit(tmp_path, market, settings={"provider": "cloud"})
    assert "no price is known" in caught.value.why
    market.put("cloud", gpu("cloud", "own", 0.0, price_source="ssh.usd_per_hour"))
    assert plan_of(fit(tmp_path, market, where="own")).offer == "own"


def test_without_quota_the_next_best_machine_is_planned_and_the_table_says_why(tmp_path: Path, market: Market) -> None:
    market.put("cloud", gpu("cloud", "a10g", 1.2), gpu("cloud", "l4", 1.3, gpu="NVIDIA L40S", gpu_memory_gib=44.7), no_quota=("a10g", "l4"))
    market.put("palace", gpu("palace", "h100", 5.0, **H100))
    plan = plan_of(fit(tmp_path, market))
    assert (plan.offer, plan.preflight) == ("h100", ("h100 may be started: dry run",))
    assert row(plan, "a10g").reason == "no quota for a10g: 0 of 8 vCPUs are allowed"
    assert sorted(market.lines("cloud", "preflights")) == ["a10g", "l4"]


def test_a_provider_without_quota_for_anything_is_told_in_its_own_words_before_anything_is_spent(tmp_path: Path, market: Market) -> None:
    market.put("cloud", gpu("cloud", "a10g", 1.2), no_quota=("a10g",))
    with pytest.raises(NoCapacity) as caught:
        fit(tmp_path, market, settings={"provider": "cloud"})
    assert "0 of 8 vCPUs" in caught.value.why
    assert caught.value.next == "ask for quota L-DB2E81BA"


def test_a_login_that_may_not_start_machines_stops_a_plan_that_names_it_and_passes_over_it_otherwise(tmp_path: Path, market: Market) -> None:
    market.put("cloud", gpu("cloud", "a10g", 1.2), locked=True)
    market.put("palace", gpu("palace", "h100", 5.0, **H100))
    with pytest.raises(MissingAccess, match="may not start"):
        fit(tmp_path, market, settings={"provider": "cloud"})
    plan = plan_of(fit(tmp_path, market, where="auto"))
    assert plan.offer == "h100"
    assert "ec2:RunInstances is denied" in row(plan, "a10g").reason


def test_a_provider_without_a_login_says_what_it_lacks_and_stops_a_plan_that_names_it(tmp_path: Path, market: Market) -> None:
    market.put("empty", locked=True)
    assert next(one.reason for one in plan_of(fit(tmp_path, market)).machines if one.provider == "empty") == "no login: empty login was never run"
    with pytest.raises(MissingAccess, match="no login") as caught:
        fit(tmp_path, market, settings={"provider": "empty"}, where="named")
    assert caught.value.next == "empty login"


def test_a_provider_that_breaks_is_told_in_the_table_and_stops_only_a_plan_that_names_it(tmp_path: Path, market: Market) -> None:
    market.put("palace", broken=True)
    plan = plan_of(fit(tmp_path, market))
    assert next(one.reason for one in plan.machines if one.provider == "palace") == "cannot answer: ConnectionError: the price list did not answer"
    with pytest.raises(ConnectionError):
        fit(tmp_path, market, settings={"provider": "palace"}, where="named")


# --- the record ------------------------------------------------------------------------------------------------


def test_the_lease_is_priced_from_its_boot_to_the_files_that_come_back(tmp_path: Path, market: Market) -> None:
    run = fit(tmp_path, market)
    plan, told = plan_of(run), json.loads((run.out / "forecast.json").read_text(encoding="utf-8"))
    seconds = {one["phase"]: one["seconds_p50"] for one in told["phases"]}
    assert seconds["provision"] > 60
    assert seconds["train"] > 300 + 60, "environment and a base of 14 GiB"
    assert plan.deadline_seconds >= 2 * sum(one["seconds_p50"] for one in told["phases"] if one["phase"] in LEASED)
    assert plan.disk_gib > 2 * 2 * 7.6e9 / 2**30
    assert plan.memory_gib > 2 * 7.6e9 / 2**30 < plan.gpu_memory_gib + 10
    assert told["speed"]["gpu"] == "NVIDIA A10G"


def test_a_killed_plan_goes_on_with_the_prices_it_had_and_the_next_plan_asks_again(tmp_path: Path, market: Market) -> None:
    def stopped(phases: Any, inputs: Any) -> Rehearsal:
        raise Interrupted

    with pytest.raises(Interrupted):
        fit(tmp_path, market, rehearse=stopped)
    market.put("cloud", gpu("cloud", "a10g", 1.9))
    resumed = fit(tmp_path, market)
    assert (plan_of(resumed).usd_per_hour, len(market.lines("cloud", "asked"))) == (1.2, 1)
    fresh = plan_of(fit(tmp_path, market))
    assert (fresh.usd_per_hour, len(market.lines("cloud", "asked"))) == (1.9, 2)


def test_a_refused_plan_asks_again_too(tmp_path: Path, market: Market) -> None:
    market.put("palace")
    market.put("cloud", gpu("cloud", "a10g", 1.2), no_quota=("a10g",))
    with pytest.raises(NoCapacity):
        fit(tmp_path, market, settings={"provider": "cloud"})
    market.put("cloud", gpu("cloud", "a10g", 1.2))
    assert plan_of(fit(tmp_path, market, settings={"provider": "cloud"})).offer == "a10g"
