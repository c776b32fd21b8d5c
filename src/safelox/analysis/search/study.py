"""Optuna's study of a search, in a file that every step is appended to: it proposes points and is told what they gave.

What it proposes depends on the seed and on what it was told before, and on nothing else: so a search that was killed
goes on as if it had not been.
"""

import hashlib
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from safelox.analysis.search.space import Point, Space
from safelox.errors import PrerequisiteError, TargetError

if TYPE_CHECKING:
    import optuna

NAME = "safelox tune"
ERROR, LEFT = "error", "left"
RANK, COEF = "place of rank", "place of coef"
"""On the grid; the values themselves stand beside them, for those who open the file."""


class Told(NamedTuple):
    """A point that was tried to the end."""

    point: Point
    error: str | None


def require_optuna() -> None:
    """
    Raises:
        PrerequisiteError: optuna is not installed.
    """
    if find_spec("optuna") is None:
        raise PrerequisiteError("the search is Optuna's, which is not installed: pip install 'safelox[tune]'")


class Study:
    """A study in its file. Several processes must not open it at once.

    Args:
        journal: the file, which is made where there is none.
        seed: of the proposals.
    """

    def __init__(self, journal: Path, space: Space, seed: int) -> None:
        self._space, self._seed = space, seed
        self._study = _opened(journal)
        self._running: optuna.Trial | None = None
        self._give_up_what_a_killed_run_left()

    @property
    def told(self) -> list[Told]:
        """In the order in which they were tried."""
        from optuna.trial import TrialState

        return [
            Told(self._point(trial.params), trial.user_attrs.get(ERROR))
            for trial in self._study.trials
            if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or ERROR in trial.user_attrs
        ]

    def propose(self) -> Point | None:
        """A point that was not tried yet, to be told of next; None where all were."""
        tried = {told.point for told in self.told}
        if len(tried) >= self._space.size:
            return None
        starts = self._space.starts(self._seed)
        if len(tried) < len(starts):
            wanted: Point | None = starts[len(tried)]
        else:
            wanted = self._space.nearest_new(self._proposed(len(tried)), tried)
        assert wanted is not None, "not all points were tried"
        self._begin(wanted)
        return wanted

    def tell(self, values: tuple[float, float] | None, constraints: Mapping[str, float]) -> None:
        """What the proposed point gave.

        Args:
            values: the ASR after the attack and the utility before it; None where a bound was broken before the attack.
            constraints: by name, how far a rate is beyond its bound; 0 or less where it is kept.
        """
        from optuna.trial import TrialState

        trial = self._taken()
        for name, excess in constraints.items():
            trial.set_constraint(name, excess)
        if values is None:
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, list(values))

    def tell_failed(self, error: str) -> None:
        """The proposed point could not be measured; it is not proposed again."""
        from optuna.trial import TrialState

        trial = self._taken()
        trial.set_user_attr(ERROR, error)
        self._study.tell(trial, state=TrialState.FAIL)

    def _taken(self) -> "optuna.Trial":
        assert self._running is not None, "no point was proposed"
        trial, self._running = self._running, None
        return trial

    def _proposed(self, number: int) -> Point:
        """What the sampler proposes, wherever that is; the study keeps no trace of it but a trial that failed."""
        from optuna.trial import TrialState

        trial = self._ask(number)
        trial.set_user_attr(LEFT, "a proposal; the trial after it is the nearest point that was not tried")
        self._study.tell(trial, state=TrialState.FAIL)
        return self._point(trial.params)

    def _begin(self, point: Point) -> None:
        rank, coef = self._space.index(point)
        self._study.enqueue_trial({RANK: rank, COEF: coef})
        self._running = self._ask(0)
        self._running.set_user_attr("rank", point.rank)
        self._running.set_user_attr("coef", point.coef)

    def _ask(self, number: int) -> "optuna.Trial":
        from optuna.distributions import BaseDistribution, IntDistribution
        from optuna.samplers import TPESampler

        digest = hashlib.sha256(f"{self._seed} {number}".encode()).digest()
        self._study.sampler = TPESampler(
            n_startup_trials=1, multivariate=True, seed=int.from_bytes(digest[:4], "little"), constant_liar=False
        )
        places: dict[str, BaseDistribution] = {
            RANK: IntDistribution(0, len(self._space.ranks) - 1),
            COEF: IntDistribution(0, len(self._space.coefs) - 1),
        }
        return self._study.ask(places)

    def _point(self, params: Mapping[str, int]) -> Point:
        return self._space.at(params[RANK], params[COEF])

    def _give_up_what_a_killed_run_left(self) -> None:
        """Trials that were never told of fail; what they had measured is on disk, and the same point comes next."""
        from optuna.trial import TrialState

        for trial in self._study.trials:
            if trial.state in (TrialState.RUNNING, TrialState.WAITING):
                if trial.state == TrialState.WAITING:
                    self._ask(0)
                self._study.tell(trial.number, state=TrialState.FAIL)


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Without Optuna's own messages on every step, and its notes on what is experimental."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def _opened(journal: Path) -> "optuna.Study":
    """The study of a file, mended where a run was killed while it wrote: nobody else has the file open.

    Raises:
        TargetError: the file is damaged.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    for left in journal.parent.glob(f"{journal.name}.lock*"):
        left.unlink()
    if journal.exists():
        content = journal.read_bytes()
        with journal.open("r+b") as stream:
            stream.truncate(content.rfind(b"\n") + 1)
    try:
        return optuna.create_study(
            study_name=NAME,
            storage=JournalStorage(JournalFileBackend(str(journal))),
            directions=["minimize", "maximize"],
            load_if_exists=True,
        )
    except (ValueError, KeyError) as error:
        raise TargetError(f"{journal}: damaged ({error}); --overwrite starts over.") from error
