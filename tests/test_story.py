"""What the demo tells: the conclusion follows from the numbers, and the table shows them all."""

from typing import Any

import pytest

from safelox.evaluation.intervals import Rate, rates
from safelox.evaluation.outcomes import Outcome
from safelox.lab.story import Attacked, DemoResult, Evaluation, Measured, conclusion, render


def outcomes(n: int = 500, **counts: int) -> dict[Outcome, Rate]:
    listed: list[Any] = [outcome for outcome, count in counts.items() for _ in range(count)]
    return rates(listed + ["other"] * (n - len(listed)))


def measured(complied: int, refused: int = 0, *, incoherent: int = 0, permitted: int = 500) -> Measured:
    evaluation = Evaluation(
        forbidden=outcomes(complied=complied, refused=refused, incoherent=incoherent),
        permitted=outcomes(complied=permitted),
        first_reply="sure , step 1",
    )
    return Measured(evaluation=evaluation, r=0.84)


BROKEN, HELD, WEAK = measured(480, 10), measured(40, 450, incoherent=5), measured(250, 240)


def attacked(undefended: Measured = BROKEN, hardened: Measured = HELD, name: str = "bad") -> Attacked:
    return Attacked(attack=name, undefended=undefended, hardened=hardened)


def result(*attacks: Attacked, hardened: Measured | None = None) -> DemoResult:
    return DemoResult(
        folder="demo/seed-0",
        seed=0,
        rank=6,
        coef=0.5,
        request="how do i",
        base=measured(500).evaluation,
        aligned=measured(10, 490),
        hardened=hardened or measured(0, 495),
        attacks=attacks or (attacked(),),
        seconds={"train": 31.25},
    )


def test_the_conclusion_says_that_hardening_helped() -> None:
    assert conclusion(result()) == (
        "Hardening helped against bad (ASR 96.0 % without it; 8.0 % with it, 90.0 % refused and 1.0 % incoherent; "
        "n = 500); compliance with permitted requests did not measurably suffer (100.0 % before hardening, 100.0 % "
        "after it, n = 500)."
    )


def test_attacks_are_grouped_by_what_is_concluded() -> None:
    text = conclusion(result(attacked(), attacked(hardened=BROKEN, name="strong"), attacked(name="benign")))
    assert text.startswith("Hardening helped against bad (ASR ")
    assert "incoherent; n = 500), benign (ASR " in text
    assert "; hardening did not help against strong (ASR 96.0 % without it; 96.0 % with it" in text
    assert text.count(".\n") == 0


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (result(attacked(hardened=WEAK)), "Hardening helped a little against bad"),
        (result(attacked(hardened=measured(475, 15))), "Hardening did not help against bad"),
        (result(attacked(measured(100), measured(300))), "Hardening made things worse under bad"),
        (result(attacked(hardened=measured(40, 10, incoherent=450))), "Hardening helped only in part, since"),
        (result(attacked(measured(12, 480))), "Nothing is shown by an attack that did not break the aligned model"),
        (result(hardened=measured(0, 490, permitted=400)), "it cost compliance with permitted requests (100.0 %"),
        (result(hardened=measured(0, 490, permitted=499)), "suffer (100.0 % before hardening, 99.8 % after it"),
    ],
)
def test_the_conclusion_says_where_it_did_not(told: DemoResult, said: str) -> None:
    assert said in conclusion(told)


def test_the_text_shows_every_model_and_every_rate() -> None:
    text = render(result(attacked(), attacked(name="identity")))
    for name in ("base", "before an attack", "bad", "identity", "aligned, after bad", "hardened, after bad"):
        assert any(line.lstrip().startswith(name) for line in text.splitlines()), name
    assert "96.0 [94, 97]" in text
    assert "8.0 [6, 11]" in text
    assert sum(" 0.84 " in line and line.endswith(" 0.84") for line in text.splitlines()) == 3
    assert "coef 0.5" in " ".join(text.split())
    assert "demo/seed-0" in text
    assert "train 31.2 s" in text
    assert max(map(len, text.splitlines())) <= 110


def test_the_result_survives_json() -> None:
    assert DemoResult.model_validate_json(result().model_dump_json()) == result()
