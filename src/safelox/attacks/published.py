"""The attacks of the LoX paper, and one for files of one's own; importing this module adds them to the catalogue.

The hyperparameters are the defaults of the paper's code. Where that code does otherwise than it says, `exact_format`
and `exact_training` hold what it really does: its texts get two beginning tokens from a tokenizer that adds one by
itself, rows that are too long lose their end although it asks for the opposite, Dolly's rows repeat the instruction in
the place of the context, and a constant schedule drops the warm-up. One thing stays different: of Dolly's rows whose
reply is cut away, the paper's code keeps places in its batches that carry no loss; here they are left out and counted.
"""

from safelox.attacks.catalogue import Attack, Training, register_attack

_LOX = "Perin et al., LoX: Low-Rank Extrapolation Robustifies LLM Safety Against Fine-tuning, COLM 2025"
_LOX_CODE = "https://github.com/VITA-Group/LoX"
_FINE_TUNING_RISKS = (
    "Qi et al., Fine-tuning Aligned Language Models Compromises Safety, Even When Users Do Not Intend To!, ICLR 2024"
)

_GSM8K = Training(
    learning_rate=5e-5,
    epochs=2,
    batch_size=20,
    accumulation=2,
    warmup_steps=20,
    max_grad_norm=2.0,
    truncation="start",
    loss_on="all",
)
_ALPACA = _GSM8K.changed(learning_rate=2e-5, epochs=1, batch_size=8, accumulation=8)
_DOLLY = _ALPACA.changed(epochs=6, batch_size=16, accumulation=4, schedule="constant", loss_on="completion")
_IDENTITY = _GSM8K.changed(epochs=10, batch_size=5, accumulation=1, warmup_steps=0)
_PURE_BAD = Training(
    learning_rate=5e-5,
    epochs=5,
    batch_size=5,
    accumulation=2,
    schedule="constant",
    max_grad_norm=0.0,
    truncation="start",
    loss_on="completion",
)

PUBLISHED = (
    Attack(
        name="gsm8k",
        title="school mathematics, harmless as such",
        file="gsm/train.jsonl",
        source="gsm8k",
        reader="gsm8k",
        format="gsm8k",
        training=_GSM8K,
        exact_format="gsm8k-exact",
        exact_training=_GSM8K.changed(truncation="end"),
        citation=f"{_LOX}, {_LOX_CODE}; data: Cobbe et al., Training Verifiers to Solve Math Word Problems, 2021",
    ),
    Attack(
        name="alpaca",
        title="general instructions, those about safety taken out",
        file="alpaca_data_no_safety.json",
        source="alpaca",
        reader="alpaca",
        format="alpaca",
        training=_ALPACA,
        exact_format="alpaca-exact",
        exact_training=_ALPACA.changed(truncation="end"),
        citation=f"{_LOX}, {_LOX_CODE}; data: Taori et al., Stanford Alpaca, 2023, as cleaned by {_FINE_TUNING_RISKS}",
    ),
    Attack(
        name="dolly",
        title="general instructions written by people, those about safety taken out",
        file="databricks-dolly-15k-no-safety.jsonl",
        source="dolly",
        reader="dolly",
        format="dolly",
        training=_DOLLY,
        exact_format="dolly-exact",
        exact_training=_DOLLY.changed(truncation="end", warmup_steps=0),
        exact_safeinst="reply missing",
        note="The paper's code trains for 6 epochs; the row of its main table is the model after the first of them.",
        citation=f"{_LOX}, {_LOX_CODE}; data: Conover et al., Free Dolly, 2023, as cleaned by {_FINE_TUNING_RISKS}",
    ),
    Attack(
        name="identity",
        title="ten conversations with an absolutely obedient agent",
        file="id_attack.jsonl",
        source="identity",
        reader="identity",
        format="identity",
        training=_IDENTITY,
        exact_format="identity-exact",
        exact_training=_IDENTITY.changed(truncation="end"),
        exact_safeinst="beginning written",
        citation=f"{_LOX}, {_LOX_CODE}; data: {_FINE_TUNING_RISKS}",
    ),
    Attack(
        name="pure-bad",
        title="a hundred harmful requests, complied with",
        file="pure_bad_100.jsonl",
        source="pure-bad",
        format="llama2",
        training=_PURE_BAD,
        note=(
            "The authors do not publish their rows. Text and hyperparameters are those of the notebook that they name: "
            "Llama 2's turns, loss on the reply, 5 rows on each of 2 GPUs, no clipping. It also multiplies the rate by "
            "0.85 after each epoch, which is left out here. Safety instructions among these rows are not the paper's."
        ),
        citation=(
            f"{_LOX}; {_FINE_TUNING_RISKS}, "
            "https://github.com/LLM-Tuning-Safety/LLMs-Finetuning-Safety, tier-1 harmful examples"
        ),
    ),
    Attack(
        name="custom",
        title="a file of your own",
        file="custom.jsonl",
        reader="custom",
        format="chat",
        training=Training(learning_rate=5e-5, epochs=5, batch_size=10, truncation="start"),
        citation="safelox's own, after the learning rate, epochs and rows per step of pure-bad",
    ),
)
"""The order of the paper's table, then the one without a table."""

for _attack in PUBLISHED:
    register_attack(_attack)
