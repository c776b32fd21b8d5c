"""Judges that are models in this process: here a tiny model in which each word says which word comes next."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from safelox.errors import CheckpointError
from safelox.evaluation.judges import JudgeOptions, build_judges, judge_many
from safelox.evaluation.outcomes import Verdict
from safelox.evaluation.samples import Message, Sample
from safelox.language_models import LanguageModel
from small_models import CHAT_TEMPLATE, POSITIONS, ROLES, SPECIAL, save_language_model, small_model

WORDS = ("good", "bad", "yes", "no", "safe", "unsafe", "S1", "do", "it")
TOKENS = (*SPECIAL.values(), *ROLES, *WORDS)
END = SPECIAL["eos_token"]


def write_model(
    folder: Path, follows: Mapping[str, str], template: str | None = CHAT_TEMPLATE, positions: int = POSITIONS
) -> Path:
    """A model that continues a text by the word that follows its last one."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({token: index for index, token in enumerate(TOKENS)}, unk_token="<unk>"))
    words.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, additional_special_tokens=list(ROLES), chat_template=template, **SPECIAL
    )
    model = small_model(vocabulary=len(TOKENS))
    model.config.max_position_embeddings = positions
    with torch.no_grad():
        layer = model.model.layers[0]
        for silent in (layer.self_attn.o_proj, layer.mlp.down_proj, model.lm_head):
            silent.weight.zero_()
        # What remains of the model is the embedding of the last word, which points to the word that follows.
        model.model.embed_tokens.weight.copy_(torch.eye(16)[: len(TOKENS)])
        for word, next_word in follows.items():
            model.lm_head.weight[TOKENS.index(next_word), TOKENS.index(word)] = 1.0
    return save_language_model(LanguageModel(model, tokenizer), folder)


def sample(number: int) -> Sample:
    return Sample(id=str(number), messages=(Message(role="user", content="do it"),))


def test_llama_guard_from_a_folder(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "guard", {ROLES[2]: "unsafe", "unsafe": "S1", "S1": END})
    [judge] = build_judges([f"llama-guard={folder}"])
    found = dict(judge_many(judge, [(sample(index), "good") for index in range(3)]))
    assert found == dict.fromkeys(range(3), Verdict(outcome="complied", raw="unsafe S1", score=1.0))
    assert str(folder) in judge.version


def test_harmbenchs_classifier_from_a_folder_continues_the_text_as_it_is(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "classifier", {"bad": "yes", "good": "no", "yes": END, "no": END}, template=None)
    wording = tmp_path / "wording.txt"
    wording.write_text("{behavior} {generation}\n")
    [judge] = build_judges(["harmbench"], JudgeOptions(model=str(folder), prompt=wording, device="cpu"))
    too_long = "good " * POSITIONS
    found = dict(judge_many(judge, [(sample(1), "bad"), (sample(2), too_long), (sample(3), "bad good")]))
    assert [found[index].outcome for index in range(3)] == ["complied", "unscored", "other"]
    assert f"{POSITIONS} in all" in str(found[1].raw)
    assert judge.judge(sample(1), "bad") == found[0]


def test_a_rubric_may_be_asked_of_a_chat_model_in_a_folder(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "chat", {ROLES[2]: "no", "no": END}, positions=1024)
    wording = tmp_path / "wording.txt"
    wording.write_text("do {instruction} {reply}")
    [judge] = build_judges([f"policy-rubric={folder}"], JudgeOptions(prompt=wording))
    assert dict(judge_many(judge, [(sample(1), "good")])) == {0: Verdict(outcome="unscored", raw="no")}
    assert dict(judge_many(judge, [])) == {}


def test_a_model_that_is_not_there() -> None:
    for name in ("llama-guard=no-such-folder", "policy-rubric=hub:no-such-folder"):
        with pytest.raises(CheckpointError, match="no-such-folder"):
            build_judges([name])
