"""What part of a delta makes the model safe, told by its replies.

loaded.py       the weights of a loaded model, by their names in its files
directions.py   the leading directions of all deltas of a pair
curve/          rank_curve: how many directions it takes
plane/          landscape: the plane of hardening and fine-tuning, and lines
search/         tune: which rank and which coefficient, by trying
"""
