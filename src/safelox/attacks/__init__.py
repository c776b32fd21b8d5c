"""Fine-tuning attacks: what is known of each, and the one trainer that carries them out.

catalogue.py   Training, Attack and the table of attacks: data, no code
rows.py        conversations read from a JSON Lines file, every bad line named
examples.py    conversations as token ids, with the tokens that the loss sees
trainer.py     fine_tune: a model in memory, trained in place
isolation.py   what training must not disturb, put back afterwards
run.py         attack: from a model folder to an attacked model folder with a record of what was done
"""

from safelox.attacks.catalogue import ATTACKS, Attack, Training, find_attack, register_attack
from safelox.attacks.rows import read_rows
from safelox.attacks.run import AttackRecord, AttackSummary, attack
from safelox.attacks.trainer import FineTuning, fine_tune

__all__ = [
    "ATTACKS",
    "Attack",
    "AttackRecord",
    "AttackSummary",
    "FineTuning",
    "Training",
    "attack",
    "find_attack",
    "fine_tune",
    "read_rows",
    "register_attack",
]
