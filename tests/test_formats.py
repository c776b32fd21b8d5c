"""Prompt formats: their texts, and their tokens whatever the tokenizer adds by itself."""

import pytest

from safelox.errors import CheckpointError, DataError, UsageError
from safelox.formats import FORMATS, Conversation, Message, TextFormat, find_format
from small_tokenizers import KINDS, small_tokenizer

TASK = "Below is an instruction that describes a task. "
RESPOND = "Write a response that appropriately completes the request."
ASKED = [Message(role="user", content="Add three and four.")]
WITH_CONTEXT = [Message(role="user", content="Count them.", context="seven apples")]
WITH_SYSTEM = [Message(role="system", content="Count well."), *ASKED]
REPLY = Message(role="assistant", content="seven")
TEXT_FORMATS = sorted(set(FORMATS) - {"chat"})
BEGINNINGS = {"llama": [1], "gemma": [2], "phi3": [1], "gpt2": [], "qwen": [], "opt": [0], "ending": [1]}
"""What a text begins with, by the kind of the tokenizer."""


def text_format(name: str) -> TextFormat:
    found = find_format(name)
    assert isinstance(found, TextFormat)
    return found


def asked_in(name: str) -> Conversation:
    """A prompt that the format has places for."""
    return WITH_SYSTEM if name.startswith("identity") else ASKED


PROMPTS: list[tuple[str, Conversation, str]] = [
    ("plain", ASKED, f"{TASK}{RESPOND}\n\n### Instruction:\nAdd three and four.\n\n### Response:"),
    ("gsm8k", ASKED, f"{TASK}{RESPOND}\n\n### Instruction:\nAdd three and four.\n\n### Response: "),
    ("alpaca", ASKED, f"{TASK}{RESPOND}\n### Instruction:\nAdd three and four.\n\n### Response:\n"),
    (
        "alpaca",
        WITH_CONTEXT,
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        f"{RESPOND}\n### Instruction:\nCount them.\n\n### Input:\nseven apples\n\n### Response:\n",
    ),
    ("dolly", ASKED, "###Instruction: Add three and four. \n###Response:"),
    ("dolly", WITH_CONTEXT, "###Instruction: Count them. \n###Context: seven apples \n###Response:"),
    ("dolly-exact", WITH_CONTEXT, "###Instruction: Count them. \n###Context: Count them. \n###Response:"),
    ("identity", WITH_SYSTEM, "Count well.\n### Instruction:\nAdd three and four.\n\n### Response:"),
    ("llama2", WITH_SYSTEM, "[INST] <<SYS>>\nCount well.\n<</SYS>>\n\nAdd three and four. [/INST]"),
    (
        "llama2",
        ASKED,
        "[INST] <<SYS>>\nYou are a helpful assistant. Make sure you always execute users' instructions.\n<</SYS>>\n\n"
        "Add three and four. [/INST]",
    ),
    ("plain", WITH_CONTEXT, f"{TASK}{RESPOND}\n\n### Instruction:\nCount them.\n\nseven apples\n\n### Response:"),
]


@pytest.mark.parametrize(("name", "conversation", "text"), PROMPTS)
def test_the_text_of_a_prompt(name: str, conversation: Conversation, text: str) -> None:
    assert text_format(name).text(conversation) == text


def test_braces_in_the_data_are_but_text() -> None:
    conversation = [Message(role="user", content="Write {system} and {0}.", context="{user}")]
    assert (
        text_format("alpaca").text(conversation).endswith("{system} and {0}.\n\n### Input:\n{user}\n\n### Response:\n")
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name in TEXT_FORMATS if not name.endswith("-exact")])
def test_beginning_and_end_stand_once_around_the_text(name: str, kind: str) -> None:
    tokenizer, format = small_tokenizer(kind), text_format(name)
    text = format.text(asked_in(name)) + format.reply.format(reply="seven")
    inner = tokenizer(text, add_special_tokens=False)["input_ids"]
    [(prompt, completion)] = format.encode(tokenizer, [[*asked_in(name), REPLY]])
    assert prompt + completion == BEGINNINGS[kind] + inner + [tokenizer.eos_token_id]
    [asked] = format.prompts(tokenizer, [asked_in(name)])
    assert asked == BEGINNINGS[kind] + tokenizer(format.text(asked_in(name)), add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TEXT_FORMATS)
def test_the_completion_is_the_reply(name: str, kind: str) -> None:
    tokenizer, format = small_tokenizer(kind), text_format(name)
    [(_, completion)] = format.encode(tokenizer, [[*asked_in(name), REPLY]])
    said = tokenizer.decode(completion, skip_special_tokens=True)
    # Only a tokenizer without it sees the end that the paper's code writes as so many letters.
    assert said.replace("</s>", "").strip() == "seven"
    assert completion[-1] == tokenizer.eos_token_id


def test_a_token_over_the_border_belongs_to_the_completion() -> None:
    """GSM8K's prompt ends in a space, which begins the first token of the reply."""
    tokenizer = small_tokenizer("llama")
    [(prompt, completion)] = FORMATS["gsm8k"].encode(tokenizer, [[*ASKED, REPLY]])
    assert tokenizer.convert_ids_to_tokens(completion) == ["▁seven", "</s>"]
    [asked] = FORMATS["gsm8k"].prompts(tokenizer, [ASKED])
    assert tokenizer.convert_ids_to_tokens(asked[len(prompt) :]) == ["▁"]


def test_an_empty_reply_is_an_end_token() -> None:
    tokenizer = small_tokenizer("gpt2")
    [(_, completion)] = FORMATS["alpaca"].encode(tokenizer, [[*ASKED, Message(role="assistant", content="")]])
    assert completion == [tokenizer.eos_token_id]


@pytest.mark.parametrize("name", [name for name in TEXT_FORMATS if name.endswith("-exact")])
def test_the_papers_tokens_are_those_of_its_text(name: str) -> None:
    tokenizer, format = small_tokenizer("llama"), text_format(name)
    text = (format.written_beginning or "") + format.text(asked_in(name)) + format.reply.format(reply="seven") + "</s>"
    [(prompt, completion)] = format.encode(tokenizer, [[*asked_in(name), REPLY]])
    assert prompt + completion == tokenizer(text)["input_ids"]
    assert (prompt + completion).count(tokenizer.bos_token_id) == (1 if name == "identity-exact" else 2)
    assert (prompt + completion).count(tokenizer.eos_token_id) == 1


def test_for_other_tokenizers_the_papers_markers_are_letters_and_the_end_is_added() -> None:
    tokenizer = small_tokenizer("gpt2")
    [(prompt, completion)] = FORMATS["gsm8k-exact"].encode(tokenizer, [[*ASKED, REPLY]])
    assert tokenizer.decode(prompt).startswith("<s>Below is")
    assert tokenizer.decode(completion) == " seven</s><|endoftext|>"
    assert completion.count(tokenizer.eos_token_id) == 1


def test_a_tokenizer_without_any_special_token_does_without() -> None:
    tokenizer = small_tokenizer("qwen")
    tokenizer.eos_token = tokenizer.pad_token = None
    [(prompt, completion)] = FORMATS["plain"].encode(tokenizer, [[*ASKED, REPLY]])
    assert tokenizer.decode(prompt + completion) == text_format("plain").text(ASKED) + " seven"
    [(prompt, completion)] = FORMATS["gsm8k-exact"].encode(tokenizer, [[*ASKED, REPLY]])
    assert tokenizer.decode(completion) == " seven</s>"


def test_nothing_gives_nothing() -> None:
    tokenizer = small_tokenizer("llama")
    assert [FORMATS[name].prompts(tokenizer, []) for name in FORMATS] == [[]] * len(FORMATS)
    assert [FORMATS[name].encode(tokenizer, []) for name in FORMATS] == [[]] * len(FORMATS)


@pytest.mark.parametrize(
    ("name", "conversation", "said"),
    [
        ("gsm8k", WITH_SYSTEM, "conversation 2: the prompt format gsm8k has no place for a system message"),
        ("identity", ASKED, "conversation 2: the prompt format identity needs a system message"),
        (
            "plain",
            [*ASKED, REPLY, *ASKED],
            "one user message and its reply; before the reply stands: user, assistant, user",
        ),
        ("plain", [], "before the reply stands: nothing"),
    ],
)
def test_a_conversation_without_its_place_is_named(name: str, conversation: Conversation, said: str) -> None:
    tokenizer, format = small_tokenizer("gpt2"), FORMATS[name]
    for take in (
        lambda: format.encode(tokenizer, [[*asked_in(name), REPLY], [*conversation, REPLY]]),
        lambda: format.prompts(tokenizer, [asked_in(name), conversation]),
    ):
        with pytest.raises(DataError, match=said):
            take()


def test_the_chat_template_gets_the_context_after_the_message() -> None:
    tokenizer = small_tokenizer("gpt2")
    with pytest.raises(CheckpointError, match=r"no chat template.*such as plain"):
        FORMATS["chat"].encode(tokenizer, [[*ASKED, REPLY]])
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message.keys() | list | length }}{{ message.content }};{% endfor %}"
    )
    [(prompt, completion)] = FORMATS["chat"].encode(tokenizer, [[*WITH_CONTEXT, REPLY]])
    assert tokenizer.decode(prompt) == "2Count them.\n\nseven apples;"
    assert tokenizer.decode(completion) == "2seven;"


def test_formats_are_known_by_their_names() -> None:
    assert all(FORMATS[name].name == name and FORMATS[name].title for name in FORMATS)
    with pytest.raises(UsageError, match="no prompt format is called 'nothing'; there are: chat, plain, gsm8k, "):
        find_format("nothing")
