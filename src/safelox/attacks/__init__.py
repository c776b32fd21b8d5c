"""Fine-tuning attacks: what is known of each, and the one trainer that carries them out.

catalogue.py     Training, Attack and the table of attacks: data, no code
published.py     the attacks of the paper, and one for own files, as entries of that table
rows.py          conversations read from the files of data sets as they are published, every bad row named
mixing.py        the rows of a training: the attack's, harmful ones among them, safety instructions after them
examples.py      conversations as token ids, with the tokens that the loss sees
lora.py          LoRA factors in place of all weights
distribution.py  several processes: which way was asked for, and whether it came to that
arguments.py     hyperparameters as the trainer's arguments
trainer.py       fine_tune: a model in memory, trained in place
preference.py    align_by_preference: the same by direct preference optimisation
sft.py           TRL's trainer, with checkpoints that are whole models, and what watches it
checkpoints.py   which checkpoints there are, and which can be gone on from
interruption.py  Ctrl-C or SIGTERM that first comes to a place where it can stop
log.py           the course of the loss as JSON Lines
isolation.py     what training must not disturb, put back afterwards
record.py        what an attack was: Plan, AttackRecord
unfinished.py    the folder of an attack that is not finished
work.py          an attack that is to be carried out, and its training
run.py           attack: from a model to an attacked one with a record of what was done
"""

from safelox.attacks.catalogue import ATTACKS, Attack, Training, find_attack, register_attack
from safelox.attacks.mixing import Assembled, Composition, assemble
from safelox.attacks.published import PUBLISHED
from safelox.attacks.record import AttackRecord, AttackSummary
from safelox.attacks.rows import read_rows
from safelox.attacks.run import attack
from safelox.attacks.trainer import FineTuning, fine_tune

__all__ = [
    "ATTACKS",
    "PUBLISHED",
    "Assembled",
    "Attack",
    "AttackRecord",
    "AttackSummary",
    "Composition",
    "FineTuning",
    "Training",
    "assemble",
    "attack",
    "find_attack",
    "fine_tune",
    "read_rows",
    "register_attack",
]
