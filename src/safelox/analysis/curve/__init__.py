"""How safe the model is with so many directions of its alignment.

ranks.py            one model in memory that gets the weights of one rank after another
effective_rank.py   the first rank that is as safe as the whole delta, and how sure that is
report.py           the results
run.py              rank_curve: where the above meet
picture.py          draw_rank_curve: the same as a picture for print
"""

from safelox.analysis.curve.effective_rank import EffectiveRank
from safelox.analysis.curve.picture import draw_rank_curve
from safelox.analysis.curve.report import Curve, RankCurve, RankPoint
from safelox.analysis.curve.run import rank_curve

__all__ = ["Curve", "EffectiveRank", "RankCurve", "RankPoint", "draw_rank_curve", "rank_curve"]
