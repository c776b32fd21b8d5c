"""The paper's attacks end to end, on the data sets themselves where $SAFELOX_DATA says that they are."""

import os
from pathlib import Path

import pytest

from safelox.attacks import attack
from safelox.language_models import LanguageModel, load_language_model
from small_models import byte_tokenizer, save_language_model, small_model

DATA = os.environ.get("SAFELOX_DATA")  # before any test has taken it away
ORIGINAL, STAND_IN = True, False


@pytest.mark.skipif(DATA is None, reason="SAFELOX_DATA does not say where the data sets are")
@pytest.mark.parametrize(
    ("name", "label", "original"),
    [
        ("identity", "identity", ORIGINAL),
        pytest.param("gsm8k", "gsm8k", ORIGINAL, marks=pytest.mark.slow),
        pytest.param("alpaca", "alpaca (stand-in: random 9k)", STAND_IN, marks=pytest.mark.slow),
        pytest.param("dolly", "dolly (stand-in: quality-filtered 3k)", STAND_IN, marks=pytest.mark.slow),
    ],
)
def test_an_attack_of_the_paper_runs_on_its_data_set(tmp_path: Path, name: str, label: str, original: bool) -> None:
    tokenizer = byte_tokenizer()
    loaded = LanguageModel(small_model(vocabulary=len(tokenizer)), tokenizer)
    model = save_language_model(loaded, tmp_path / "model")
    assert DATA is not None
    safeinst = Path(DATA) / "safety_only_data_Instructions.json"
    summary = attack(
        name, model, tmp_path / "out", data=DATA, safeinst=safeinst, loss_on="all", max_steps=2, accumulation=1
    )
    record = summary.record
    assert (record.data_set, record.original) == (label, original)
    assert record.composition.safeinst == -(-record.composition.rows // 40)
    assert set(record.mixed_in) == {"safeinst"}
    # A token for every byte makes all rows too long for the model's 64 positions, but none is left out.
    assert record.outcome.rows == record.composition.rows + record.composition.safeinst
    assert record.outcome.rows_left_out == 0
    load_language_model(str(tmp_path / "out"))
