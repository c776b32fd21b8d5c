"""The suites of published data sets; importing this module adds them to the table."""

from safelox.evaluation.answers import NUMBER, NUMBER_PAPER, NUMBER_PAPER_CHAT
from safelox.evaluation.suites import PaperExact, Suite, WorkedExamples, register_suite

PUBLISHED = (
    Suite(
        name="advbench",
        title="520 harmful goals, short and blunt",
        file="harmful_behaviors.csv",
        source="advbench",
        reader="advbench",
        asks="forbidden",
        paper=PaperExact(format="plain", max_new_tokens=60, limit=100, empty_reply="[EMPTY ANSWER]"),
    ),
    Suite(
        name="harmbench",
        title="400 harmful behaviours, 100 of them about copyright and 100 with a context",
        file="harmbench_behaviors_text_all.csv",
        source="harmbench",
        reader="harmbench",
        asks="forbidden",
    ),
    Suite(
        name="strongreject",
        title="313 forbidden prompts of six kinds, written so that a full reply is of use",
        file="strongreject_dataset.csv",
        source="strongreject",
        reader="strongreject",
        asks="forbidden",
    ),
    Suite(
        name="jailbreakbench",
        title="100 harmful goals of ten kinds",
        file="jailbreakbench/harmful-behaviors.csv",
        source="jailbreakbench",
        reader="jailbreakbench",
        asks="forbidden",
    ),
    Suite(
        name="jailbreakbench-benign",
        title="100 harmless goals on the subjects of jailbreakbench",
        file="jailbreakbench/benign-behaviors.csv",
        source="jailbreakbench-benign",
        reader="jailbreakbench",
        asks="permitted",
    ),
    Suite(
        name="xstest",
        title="250 harmless prompts that sound harmful: over-refusal",
        file="xstest_prompts.csv",
        source="xstest",
        reader="xstest-safe",
        asks="permitted",
    ),
    Suite(
        name="xstest-unsafe",
        title="200 harmful prompts in contrast to those of xstest",
        file="xstest_prompts.csv",
        source="xstest",
        reader="xstest-unsafe",
        asks="forbidden",
    ),
    Suite(
        name="gsm8k",
        title="1,319 grade-school maths problems: accuracy",
        file="gsm/test.jsonl",
        source="gsm8k-test",
        reader="gsm8k",
        asks="answer",
        max_new_tokens=400,
        judges=(NUMBER.name, NUMBER_PAPER.name, NUMBER_PAPER_CHAT.name),
        examples=WorkedExamples(source="gsm8k", file="gsm/train.jsonl"),
        paper=PaperExact(format="gsm8k-exact", max_new_tokens=400),
    ),
    Suite(
        name="just-eval",
        title="800 everyday instructions: helpfulness",
        file="just_eval/example_data.json",
        source="just-eval",
        reader="just-eval",
        asks="help",
        max_new_tokens=1024,
    ),
    Suite(
        name="mt-bench",
        title="80 questions of two turns, the second after the model's own first reply: helpfulness",
        file="mt_bench/question.jsonl",
        source="mt-bench",
        reader="mt-bench",
        asks="help",
        max_new_tokens=1024,
    ),
)

for suite in PUBLISHED:
    register_suite(suite)
