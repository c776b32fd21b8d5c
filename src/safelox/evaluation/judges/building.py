"""Judges from their names and the options that they share."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from safelox.errors import UsageError
from safelox.evaluation.judges.aspects import ASPECTS, AspectRubric
from safelox.evaluation.judges.cache import AnswerCache
from safelox.evaluation.judges.classifiers import HarmBench, LlamaGuard
from safelox.evaluation.judges.models import ApiJudge, LocalJudge
from safelox.evaluation.judges.protocol import JUDGES, Judge
from safelox.evaluation.judges.questions import Prompt, Question, read_prompt
from safelox.evaluation.judges.replay import ReplayJudge
from safelox.evaluation.judges.rubrics import PolicyRubric, StrongRejectRubric
from safelox.evaluation.judges.server import ApiModel, Patience, Server
from safelox.evaluation.judges.spending import Price, Purse, Usage, list_price

CONCURRENCY = 8
REPLAY = "replay"
HUB = "hub:"
"""Before a model's name: it is run in this process, from the hub."""


@dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """What the judges of one call share that are models."""

    model: str | None = None
    """Of those whose name does not end in =MODEL; None: each its own default."""
    url: str | None = None
    """Base URL of an OpenAI-compatible server; None: $OPENAI_BASE_URL, else OpenAI's."""
    prompt: Path | None = None
    """A text file with the wording of a judge that takes one: see `read_prompt`."""
    budget: float | None = None
    """US dollars that they may spend in this call; None: no limit."""
    price: tuple[float, float] | None = None
    """US dollars for a million tokens read and written; None: the list price of the models that have one here."""
    concurrency: int = CONCURRENCY
    """Requests to the server under way at once."""
    device: str | None = None
    """Of models in this process; None: a GPU if there is one."""
    cache: Path | None = None
    """Folder of the answers that were paid for already; None: the user's."""
    patience: Patience = field(default_factory=Patience)


@dataclass(frozen=True, kw_only=True)
class ModelJudge:
    """A kind of judge that is a language model."""

    name: str
    title: str
    """One line for people."""
    question: Callable[[Prompt | None], Question]
    """From the wording that the user gave, if any."""
    model: str
    """That it asks unless told otherwise."""
    local: bool
    """Whether that is run in this process unless there is a server's URL; else it is always a server's."""
    takes_prompt: bool


def _harmbench(prompt: Prompt | None) -> Question:
    if prompt is None:
        raise UsageError(
            "the judge harmbench was trained on one wording, which its model card shows; put it into a file with "
            "{behavior} and {generation} in their places, and name that file (--judge-prompt)."
        )
    return HarmBench(prompt)


def _aspect(name: str) -> Callable[[Prompt | None], Question]:
    return lambda _: AspectRubric(name)


MODEL_JUDGES = {
    kind.name: kind
    for kind in (
        ModelJudge(
            name="policy-rubric",
            title="how far a reply does what a usage policy forbids, 1 to 5; 5 is complied",
            question=PolicyRubric,
            model="gpt-4o-mini",
            local=False,
            takes_prompt=True,
        ),
        ModelJudge(
            name="strongreject",
            title="refusal, how convincing and how specific, as a score from 0 to 1",
            question=lambda _: StrongRejectRubric(),
            model="gpt-4o-mini",
            local=False,
            takes_prompt=False,
        ),
        ModelJudge(
            name="llama-guard",
            title="Llama Guard: safe or unsafe",
            question=lambda _: LlamaGuard(),
            model="meta-llama/Llama-Guard-3-8B",
            local=True,
            takes_prompt=False,
        ),
        ModelJudge(
            name="harmbench",
            title="HarmBench's classifier: Yes or No",
            question=_harmbench,
            model="cais/HarmBench-Llama-2-13b-cls",
            local=True,
            takes_prompt=True,
        ),
        *(
            ModelJudge(
                name=f"aspect-{aspect}",
                title=f"{aspect} of the reply to an everyday request, 1 to 5: {asks}",
                question=_aspect(aspect),
                model="gpt-4o-mini",
                local=False,
                takes_prompt=False,
            )
            for aspect, asks in ASPECTS.items()
        ),
    )
}
"""The judges that are language models, by name."""


def known_judges() -> list[str]:
    """The names of all judges, sorted."""
    return sorted([*JUDGES, *MODEL_JUDGES, REPLAY])


def build_judges(names: Sequence[str | Judge], options: JudgeOptions | None = None) -> list[Judge]:
    """The judges of these names; judges among them are taken as they are.

    A name of `MODEL_JUDGES` may end in =MODEL: a model's name on the server, the folder of a model, or hub:org/name;
    the last two are run in this process. `replay` has to end in =FILE. Everything that can be wrong with the names
    and the options is found here, before any reply is made.

    Raises:
        UsageError: a name is unknown, or an option makes no sense or has no judge to go to.
        DataError: the file of `replay` cannot be read.
        CheckpointError: a model that is to be run in this process is not to be found.
        PrerequisiteError: a package or a key is missing.
    """
    return _Builder(options or JudgeOptions()).build(names)


def judge_usage(judges: Sequence[Judge]) -> dict[str, Usage]:
    """What the judges among these that are paid by the token have used, by name."""
    return {judge.name: judge.usage for judge in judges if isinstance(judge, ApiJudge)}


class _Builder:
    def __init__(self, options: JudgeOptions) -> None:
        self._options = options
        self._server: Server | None = None
        self._check()

    def build(self, names: Sequence[str | Judge]) -> list[Judge]:
        own = [name.partition("=")[0] for name in names if isinstance(name, str)]
        self._check_prompt([MODEL_JUDGES[name] for name in own if name in MODEL_JUDGES])
        judges = [self._one(name) if isinstance(name, str) else name for name in names]
        self._check_used(judges)
        return judges

    def _one(self, full: str) -> Judge:
        name, given, argument = full.partition("=")
        if given and not argument:
            raise UsageError(f"judge {full!r}: nothing stands after the =.")
        if name == REPLAY:
            if not given:
                raise UsageError("the judge replay needs the file with the verdicts: replay=FILE.")
            return ReplayJudge(full, Path(argument))
        if name in MODEL_JUDGES:
            return self._model_judge(full, MODEL_JUDGES[name], argument or None)
        if name not in JUDGES:
            raise UsageError(f"no judge is called {name!r}; known are: {', '.join(known_judges())}.")
        if given:
            raise UsageError(f"judge {full!r}: {name} is no model, so nothing can stand after its name.")
        return JUDGES[name]

    def _model_judge(self, full: str, kind: ModelJudge, model: str | None) -> Judge:
        options = self._options
        path = options.prompt if kind.takes_prompt else None
        question = kind.question(None if path is None else read_prompt(path))
        chosen = model or options.model or kind.model
        if chosen.startswith(HUB) or (options.url is None and (kind.local or Path(chosen).is_dir())):
            return LocalJudge(full, question, chosen.removeprefix(HUB), device=options.device)
        price = list_price(chosen) if options.price is None else Price(*options.price)
        if options.budget is not None and price is None:
            raise UsageError(
                f"a budget needs the price of {chosen}, which is not known here: give it in US dollars for a million "
                "tokens read and written (--judge-price)."
            )
        return ApiJudge(full, question, ApiModel(self._shared_server(), chosen, price))

    def _shared_server(self) -> Server:
        options = self._options
        if self._server is None:
            self._server = Server(
                options.url,
                concurrency=options.concurrency,
                purse=Purse(options.budget),
                cache=AnswerCache(options.cache),
                patience=options.patience,
            )
        return self._server

    def _check(self) -> None:
        price = self._options.price
        if price is not None and not all(0 <= part < math.inf for part in price):
            raise UsageError(f"judge price {price[0]:g} {price[1]:g}: has to be two amounts from 0 up.")
        if self._options.concurrency < 1:
            raise UsageError(
                f"judge concurrency {self._options.concurrency}: at least one request has to be under way."
            )

    def _check_prompt(self, kinds: Sequence[ModelJudge]) -> None:
        takers = {kind.name for kind in kinds if kind.takes_prompt}
        if self._options.prompt is not None and len(takers) != 1:
            found = f"{' and '.join(sorted(takers))} both do" if takers else "none of these judges does"
            names = ", ".join(name for name, kind in MODEL_JUDGES.items() if kind.takes_prompt)
            raise UsageError(f"{self._options.prompt}: one judge has to take this wording ({names}), but {found}.")

    def _check_used(self, judges: Sequence[Judge]) -> None:
        """Options that no judge takes are mistakes, not wishes to be passed over."""
        options = self._options
        paid = {"a URL": options.url, "a budget": options.budget, "a price": options.price}
        idle = [name for name, value in paid.items() if value is not None]
        if idle and not any(isinstance(judge, ApiJudge) for judge in judges):
            raise UsageError(f"{' and '.join(idle)} was given, but no judge that asks a server.")
        if options.model is not None and not any(isinstance(judge, ApiJudge | LocalJudge) for judge in judges):
            raise UsageError(f"the model {options.model} was given, but no judge that is a model.")
