"""What a recipe comes to.

references.py     the models that it names
grid.py           its grids, written out
prerequisites.py  whether all that it names is known and here
digests.py        what the key of a step is made of
inputs.py         what steps read besides models
steps.py          the steps, each with its key and what it needs
pair_steps.py     those of one pair
making.py         from a recipe to its plan
forecast.py       what a plan comes to: trainings, replies, disk
"""
