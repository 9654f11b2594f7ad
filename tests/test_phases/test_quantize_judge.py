"""How numbers become verdicts: whole intervals, paired differences, and nothing passes that was not measured."""

from __future__ import annotations

import pytest

from forge.file_answers import table
from forge.phases.quantize.each import collect
from forge.phases.quantize.gguf_facts import GgufFile
from forge.phases.quantize.judge import decide, judge_mean, judge_share, worst
from forge.phases.quantize.llama import Generation, Score
from forge.phases.quantize.quality import judge_abstention, judge_likelihood, judge_stopping
from forge.phases.quantize.rows import Encoded, Row, spread
from forge.records import Message, Verdict

ABSTENTION = "Not in the handbook."
LIMITS = {
    "ppl_ratio_q8_0": 1.03, "abstention_recall": 0.9, "over_refusal": 0.05, "abstention_drop": 0.01, "stop_probability": 0.5,
    "stop_share": 0.95, "min_test_items": 30.0,
}
END, CONTROL = 2, frozenset({0, 1, 2})


def rows(count: int, *, answerable: bool = True) -> list[Encoded]:
    """Rows of one token each, every one of its own document."""
    return [
        Encoded(
            row=Row(id=f"{answerable}{i}", group=f"{answerable}{i}", prompt=(Message(role="user", content="?"),), answer="a", answerable=answerable),
            prompt=(5,), answer=(6, END),
        )
        for i in range(count)
    ]


def said(text: str, *, ended: bool = True, ids: tuple[int, ...] = (6,)) -> Generation:
    return Generation(ids=ids, text=text, ended=ended)


def scored(nll: float, p_end: float = 0.9) -> Score:
    return Score(nll=nll, top=(6, END), p_end=p_end, p_control=0.0)


def by_name(verdicts: list[Verdict]) -> dict[str, Verdict]:
    return {verdict.name: verdict for verdict in verdicts}


@pytest.mark.parametrize(
    ("ci", "at_least", "outcome"),
    [
        ((0.91, 0.99), True, "pass"), ((0.80, 0.89), True, "fail"), ((0.85, 0.95), True, "undecided"),
        ((0.01, 0.90), False, "pass"), ((0.91, 0.99), False, "fail"), ((0.85, 0.95), False, "undecided"),
    ],
)
def test_only_an_interval_that_is_clear_of_the_threshold_decides(ci: tuple[float, float], at_least: bool, outcome: str) -> None:
    assert decide(ci, 0.9, at_least=at_least) == outcome


def test_without_a_threshold_nothing_is_decided() -> None:
    assert decide((0.0, 1.0), None, at_least=True) == "undecided"


def test_nothing_measured_is_undecided_and_never_a_pass() -> None:
    share = judge_share("s", {}, 0.9, at_least=True, seed=1, min_items=1, evidence="e")
    mean = judge_mean("m", {}, 0.9, at_least=True, seed=1, min_items=1, evidence="e")

    assert (share.outcome, mean.outcome, worst([])) == ("undecided", "undecided", "undecided")
    assert worst([share, Verdict(name="x", estimate=1, outcome="pass")]) == "undecided"
    assert worst([share, Verdict(name="x", estimate=1, outcome="fail")]) == "fail"


def test_twelve_of_twelve_do_not_prove_a_share_of_nine_in_ten() -> None:
    verdict = judge_share("s", {str(i): [True] for i in range(12)}, 0.9, at_least=True, seed=1, min_items=1, evidence="e")

    assert verdict.outcome == "undecided"
    assert verdict.ci is not None
    assert verdict.ci[0] < 0.8


def test_a_quantized_file_that_lost_likelihood_fails_and_one_that_did_not_passes() -> None:
    some, f16 = rows(40), [scored(1.0 + 0.1 * (i % 5)) for i in range(40)]
    same = [score.model_copy(update={"nll": score.nll + 0.0001}) for score in f16]
    worse = [score.model_copy(update={"nll": score.nll + 0.2}) for score in f16]

    assert by_name(judge_likelihood("Q8_0", some, same, f16, LIMITS, seed=1))["ppl_ratio_q8_0"].outcome == "pass"
    bad = by_name(judge_likelihood("Q8_0", some, worse, f16, LIMITS, seed=1))["ppl_ratio_q8_0"]
    assert bad.outcome == "fail"
    assert bad.estimate == pytest.approx(1.105, abs=0.001)   # exp(0.2 nats over 2 tokens)


def test_fewer_rows_than_the_plan_asks_for_are_undecided() -> None:
    verdict = judge_likelihood("Q8_0", rows(5), [scored(1.0)] * 5, [scored(1.0)] * 5, LIMITS, seed=1)[0]

    assert verdict.outcome == "undecided"


def test_a_model_that_does_not_stop_fails() -> None:
    """What a collator that masks the end-of-turn token as padding leaves behind."""
    some = rows(60)
    bad = by_name(judge_stopping(
        "Q4_K_M", some, [scored(1.0, p_end=1e-4)] * 60, some, [said("a a a", ended=False)] * 60, LIMITS, seed=1, control=CONTROL))
    good = by_name(judge_stopping(
        "Q4_K_M", some * 2, [scored(1.0)] * 120, some * 2, [said("a")] * 120, LIMITS, seed=1, control=CONTROL))

    assert (bad["stop_probability_q4_k_m"].outcome, bad["stop_share_q4_k_m"].outcome) == ("fail", "fail")
    assert {verdict.outcome for verdict in good.values()} == {"pass"}


def test_one_marker_inside_an_answer_fails() -> None:
    some = rows(40)
    answers = [said("a")] * 39 + [said("a<|im_start|>user", ids=(6, 1, 7))]
    verdict = by_name(judge_stopping("Q8_0", some, [scored(1.0)] * 40, some, answers, LIMITS, seed=1, control=CONTROL))["control_tokens_q8_0"]

    assert (verdict.outcome, verdict.estimate) == ("fail", 1.0)


def test_a_threshold_that_the_plan_does_not_have_makes_information_of_a_verdict() -> None:
    some = rows(40)
    verdicts = by_name(judge_stopping("Q8_0", some, [scored(1.0)] * 40, some, [said("a")] * 40, {}, seed=1, control=CONTROL))

    assert (verdicts["stop_share_q8_0"].kind, verdicts["stop_share_q8_0"].outcome) == ("info", "undecided")


def abstention(inside: list[str], outside: list[str], adapter: str = ABSTENTION) -> dict[str, Verdict]:
    asked = rows(len(inside)) + rows(len(outside), answerable=False)
    answers = [said(text) for text in (*inside, *outside)]
    tuned = {row.row.id: adapter for row in asked}
    return by_name(judge_abstention("Q4_K_M", asked, answers, ABSTENTION, tuned, LIMITS, seed=1))


def test_the_abstention_sentence_counts_only_byte_for_byte() -> None:
    good = abstention(["It is red."] * 80, [ABSTENTION] * 40)
    nearly = abstention(["It is red."] * 80, ["not in the handbook."] * 40)

    assert {verdict.outcome for verdict in good.values()} == {"pass"}
    assert nearly["abstention_recall_q4_k_m"].outcome == "fail"
    assert nearly["abstention_drop_q4_k_m"].outcome == "fail"


def test_a_model_that_refuses_everything_fails_over_refusal() -> None:
    verdicts = abstention([ABSTENTION] * 80, [ABSTENTION] * 40)

    assert verdicts["over_refusal_q4_k_m"].outcome == "fail"
    assert verdicts["abstention_recall_q4_k_m"].outcome == "pass"


def test_a_sentence_that_the_adapter_never_said_was_not_lost_by_quantization() -> None:
    verdicts = abstention(["x"] * 80, ["y"] * 40, adapter="z")

    assert verdicts["abstention_drop_q4_k_m"].estimate == 0.0
    assert verdicts["abstention_recall_q4_k_m"].outcome == "fail"


def test_a_capped_sample_is_spread_over_the_whole_list() -> None:
    assert spread(list(range(10)), 5) == [0, 2, 4, 6, 8]
    assert spread(list(range(3)), 5) == [0, 1, 2]


def shipped(kind: str, **outcomes: str) -> tuple[int, list[Verdict]]:
    return 40, [
        Verdict(name=f"{name}_{kind.lower()}", kind="quality", estimate=0.5, ci=(0.4, 0.6), n=40, threshold=0.9, outcome=outcome)
        for name, outcome in outcomes.items()
    ]


def files(*kinds: str) -> list[GgufFile]:
    return [GgufFile(name=f"m-{kind}.gguf", quantization=kind, bytes=1, sha256="0", bits_per_weight=1, tensor_types={}, parameters=1) for kind in kinds]


def test_a_file_that_surely_fails_where_the_main_one_does_not_is_left_out_with_the_number() -> None:
    f16, q8, q4 = files("F16", "Q8_0", "Q4_K_M")
    given = {
        "F16": shipped("F16", abstention_recall="pass"), "Q8_0": shipped("Q8_0", abstention_recall="pass"),
        "Q4_K_M": shipped("Q4_K_M", abstention_recall="fail", stop_share="undecided"),
    }
    each = collect([f16, q8, q4], q8, given)
    assert [one.left_out for one in each] == ["", "", "abstention_recall_q4_k_m is 0.5 (0.4 to 0.6), the limit is 0.9"]
    assert [one.outcome for one in each] == ["pass", "pass", "fail"]


def test_what_the_main_file_fails_too_or_what_is_undecided_leaves_no_file_out() -> None:
    q8, q4 = files("Q8_0", "Q4_K_M")
    given = {"Q8_0": shipped("Q8_0", stop_share="fail"), "Q4_K_M": shipped("Q4_K_M", stop_share="fail", abstention_recall="undecided")}
    assert [one.left_out for one in collect([q8, q4], q8, given)] == ["", ""]


def test_the_file_that_computes_what_was_trained_is_never_left_out() -> None:
    f16, q8 = files("F16", "Q8_0")
    given = {"F16": shipped("F16", stop_share="fail"), "Q8_0": shipped("Q8_0", stop_share="pass")}
    assert [one.left_out for one in collect([f16, q8], q8, given)] == ["", ""]


def test_measures_stand_side_by_side_and_one_that_a_file_lacks_is_a_gap() -> None:
    f16, q8 = files("F16", "Q8_0")
    each = collect([f16, q8], q8, {"F16": shipped("F16", stop_share="pass"), "Q8_0": shipped("Q8_0", ppl_ratio="pass", stop_share="pass")})
    rows = {name: [one.name if one else None for one in found] for name, _, found in table(each)}
    assert rows == {"stop_share": ["stop_share_f16", "stop_share_q8_0"], "ppl_ratio": [None, "ppl_ratio_q8_0"]}


def test_a_limit_that_differs_by_file_is_not_told_as_one() -> None:
    f16, q8 = files("F16", "Q8_0")
    own = [one.model_copy(update={"threshold": 0.8}) for one in shipped("Q8_0", stop_share="pass")[1]]
    each = collect([f16, q8], q8, {"F16": shipped("F16", stop_share="pass", loops="pass"), "Q8_0": (40, own)})
    assert {name: limit for name, limit, _ in table(each)} == {"stop_share": None, "loops": 0.9}
