"""What part of a delta makes the model safe, told by its replies.

ranks.py            one model in memory that gets the weights of one rank after another
directions.py       the leading directions of all deltas of a pair
effective_rank.py   the first rank that is as safe as the whole delta, and how sure that is
report.py           the results
curve.py            rank_curve: where the above meet
picture.py          draw_rank_curve: the same as a picture for print
plane/              landscape: the plane of hardening and fine-tuning, and lines
search/             tune: which rank and which coefficient, by trying
"""

from safelox.analysis.curve import rank_curve
from safelox.analysis.effective_rank import EffectiveRank
from safelox.analysis.picture import draw_rank_curve
from safelox.analysis.report import Curve, RankCurve, RankPoint

__all__ = ["Curve", "EffectiveRank", "RankCurve", "RankPoint", "draw_rank_curve", "rank_curve"]
