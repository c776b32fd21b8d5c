"""Judges that are language models: a question, and a model behind a server or in this process that is asked it."""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

import torch

from safelox.checkpoint.hub import locate
from safelox.evaluation.generation import GenerationSettings
from safelox.evaluation.generation.decoding import Request, decode
from safelox.evaluation.judges.cache import Answer
from safelox.evaluation.judges.protocol import Item
from safelox.evaluation.judges.questions import Question
from safelox.evaluation.judges.server import SEED, TEMPERATURE, ApiModel
from safelox.evaluation.judges.spending import Usage
from safelox.evaluation.outcomes import Verdict
from safelox.evaluation.samples import Sample
from safelox.formats import Conversation, Message, TextFormat, find_format
from safelox.language_models import LanguageModel, load_language_model
from safelox.machine import chosen_device

_TEXT = TextFormat(name="text", title="a text as it is", prompt="{user}", reply="{reply}")


class ApiJudge:
    """Asks a model behind a server, several replies at once."""

    def __init__(self, name: str, question: Question, model: ApiModel) -> None:
        self.name = name
        self.version = (
            f"{question.version} {model.model} at {model.server.url}, temperature {TEMPERATURE:g}, seed {SEED}, "
            f"{question.max_tokens} tokens"
        )
        self.decides = question.decides
        self._question = question
        self._model = model

    @property
    def concurrency(self) -> int:
        return self._model.server.concurrency

    @property
    def usage(self) -> Usage:
        """What this judge has used."""
        return self._model.usage

    def interrupted(self) -> AbstractContextManager[None]:
        """While it is open, requests fail where they would be made again."""
        return self._model.server.interrupted()

    def judge(self, sample: Sample, reply: str) -> Verdict:
        """
        Raises:
            JudgeError: the server cannot be asked, or money is short.
            UnansweredError: the server does not answer this request.
        """
        question = self._question
        return question.read(self._model.answer(question.ask(sample, reply), question.max_tokens))


class LocalJudge:
    """Asks a model in this process, in batches; it is in memory only while it judges.

    Greedy, in bf16 on a GPU and in fp32 on the CPU.
    """

    def __init__(self, name: str, question: Question, reference: str, *, device: str | None = None) -> None:
        """
        Args:
            reference: a folder, or org/name[@revision] on the hub, which is downloaded at once.
            device: cpu, cuda or cuda:1; None: a GPU if there is one.

        Raises:
            CheckpointError: the reference points nowhere.
        """
        commit = locate(reference, allow_pickle=False).commit
        which = reference if commit is None else f"{reference} ({commit})"
        self.name = name
        self.version = f"{question.version} {which} through transformers, greedy, {question.max_tokens} tokens"
        self.decides = question.decides
        self._question = question
        self._reference = reference
        self._device = device

    def judge(self, sample: Sample, reply: str) -> Verdict:
        """The verdict on one reply, for which the model is loaded and let go: `judge_batch` is for many."""
        return next(verdict for _, verdict in self.judge_batch([Item(sample, reply)]))

    def judge_batch(self, items: Sequence[Item]) -> Iterator[tuple[int, Verdict]]:
        """Every item's index and verdict, those with the longest prompts first.

        Raises:
            CheckpointError: the model cannot be read, or it has no chat template where it needs one.
            PrerequisiteError: transformers is not installed, or there is too little memory for one prompt.
            UsageError: the device is not here.
        """
        if not items:
            return
        loaded = self._load()
        prompts = [self._tokens(loaded, self._question.ask(*item)) for item in items]
        new = self._question.max_tokens
        limit = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None) or math.inf
        fitting = [index for index, ids in enumerate(prompts) if len(ids) + new <= limit]
        for index in sorted(set(range(len(items))) - set(fitting)):
            said = f"{len(prompts[index])} tokens to judge, and {new} to answer: the judge was made for {limit} in all"
            yield index, Verdict(outcome="unscored", raw=said)
        settings = GenerationSettings(max_new_tokens=new)
        for number, made in decode(loaded, [Request(prompts[index]) for index in fitting], settings):
            answer = Answer(text=made.text, finish_reason=made.finish_reason)
            yield fitting[number], self._question.read(answer)

    def _load(self) -> LanguageModel:
        device = chosen_device(self._device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        model, tokenizer = load_language_model(self._reference, dtype=dtype)
        return LanguageModel(model.to(device), tokenizer)

    def _tokens(self, loaded: LanguageModel, question: Conversation | str) -> list[int]:
        if isinstance(question, str):
            return _TEXT.prompts(loaded.tokenizer, [[Message(role="user", content=question)]])[0]
        return find_format("chat").prompts(loaded.tokenizer, [question])[0]
