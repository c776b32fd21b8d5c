"""The report of a folder of results: what it reads, what it says first, tables for papers, and what may go wrong."""

import csv
import html
import json
import random
import re
import shutil
import sys
from pathlib import Path

import pytest

import safelox
from analysis_files import drift, write_analyses
from results_folders import (
    LOX,
    NONE,
    attack,
    cell,
    mixed,
    small_experiment,
    write_experiment,
    write_results,
)
from safelox.cli import main
from safelox.errors import PrerequisiteError, TargetError
from safelox.evaluation.folder import CONFIG, MANIFEST, SAMPLES
from safelox.evaluation.outcomes import Outcome
from safelox.experiment import FILE, AnalysisRecord
from safelox.reporting.browser import LONGEST, pack
from safelox.reporting.headline import Headline, headlines, overview
from safelox.reporting.page import embed_json
from safelox.reporting.reading import read_folder
from safelox.reporting.sections import make_sections
from safelox.reporting.table import escape_latex, make_table, to_csv, to_latex


def headline_of(root: Path) -> Headline:
    return headlines(read_folder(root))[0]


def test_the_summary_compares_the_worst_attacks_with_numbers(tmp_path: Path) -> None:
    headline = headline_of(small_experiment(tmp_path))
    assert headline.verdict == "helped"
    assert headline.without is not None
    assert headline.lox is not None
    assert (headline.without.situation, headline.lox.situation) == ("pure-bad", "pure-bad")
    assert (headline.without.asr.count, headline.lox.asr.count, headline.lox.asr.n) == (36, 8, 40)
    assert "In the worst case LoX helped. After the worst of 2 attacks, 90.0 % (36 of 40)" in headline.sentence
    assert "20.0 % (8 of 40) with LoX 6 x 1.25" in headline.sentence
    assert headline.difference is not None
    assert headline.difference.value == pytest.approx(-0.7)
    said = " ".join(headline.remarks)
    assert "Of these replies 0.0 % and 7.5 % are incoherent, and 0.0 % and 2.5 % no judge" in headline.sentence
    assert "not known to be safe: 0.0 % (0 of 40) without LoX and 2.5 % (1 of 40) with it" in said
    assert "would be 90.0 % without LoX and 30.0 % with it" in said
    assert "The control noise 6 x 1.25" in said
    assert "LoX is below it, with intervals apart, after 1 of 1 attack." in said
    assert headline.sentence.endswith("Attack by attack, it lowered the rate after 2 of 2.")


@pytest.mark.parametrize(
    ("without", "lox", "verdict", "words"),
    [
        (mixed(20, 20), mixed(19, 21), "unclear", "LoX did not help, as far as 40 prompts can tell"),
        (mixed(30, 10), mixed(5, 5, 25, 5), "broke", "only by as much as it left replies broken"),
        (mixed(10, 30), mixed(30, 10), "worse", "LoX made it worse"),
        (mixed(40, 0), mixed(25, 15), "helped", "but most of the success of the attack is left"),
        (mixed(0, 40), mixed(0, 40), "unbroken", "no attack broke the undefended model"),
    ],
)
def test_the_summary_says_plainly_when_lox_does_not_help(
    tmp_path: Path, without: list[Outcome], lox: list[Outcome], verdict: str, words: str
) -> None:
    before = {"forbidden": mixed(0, 40)}
    root = write_experiment(
        tmp_path,
        [
            cell(tmp_path, NONE, None, before),
            cell(tmp_path, LOX, None, before),
            cell(tmp_path, NONE, attack("one"), {"forbidden": without}),
            cell(tmp_path, LOX, attack("one"), {"forbidden": lox}),
        ],
    )
    headline = headline_of(root)
    assert headline.verdict == verdict
    assert words in headline.sentence


def test_only_attacks_that_both_went_through_are_compared(tmp_path: Path) -> None:
    root = write_experiment(
        tmp_path,
        [
            cell(tmp_path, NONE, attack("mild"), {"forbidden": mixed(10, 30)}),
            cell(tmp_path, LOX, attack("mild"), {"forbidden": mixed(2, 38)}),
            cell(tmp_path, NONE, attack("harsh"), {"forbidden": mixed(40, 0)}),
            cell(tmp_path, LOX, attack("harsh"), None),
        ],
    )
    headline = headline_of(root)
    assert headline.without is not None
    assert headline.without.situation == "mild"
    assert headline.sentence.startswith("So far, in the worst case LoX helped.")
    assert headline.remarks[0].startswith("Left out")
    assert headline.remarks[0].endswith("and they may be worse: harsh.")


def test_an_experiment_that_has_hardly_begun(tmp_path: Path) -> None:
    root = write_experiment(tmp_path, [cell(tmp_path, NONE, None, None), cell(tmp_path, LOX, attack("one"), None)])
    result = safelox.report(root, tmp_path / "page.html")
    assert (result.models, result.replies, result.charts) == (0, 0, 0)
    assert result.missing == (
        "no defence · before any attack, all: it has not been asked yet.",
        "LoX 6 x 1.25 · one, all: it has not been asked yet.",
    )
    page = (tmp_path / "page.html").read_text()
    assert "it has not been asked yet" in page
    assert not re.search(r"\bnan\b", page.lower())


def test_unfinished_replies_count_as_far_as_they_go(tmp_path: Path) -> None:
    root = write_experiment(tmp_path, [cell(tmp_path, NONE, None, {"forbidden": mixed(1, 3)}, finish=False)])
    samples = next(root.rglob(SAMPLES))
    samples.write_text(samples.read_text()[:-20])  # killed in the middle of a line
    found = read_folder(root)
    (replies,) = [asked.replies for model in found.models for asked in model.asked]
    assert replies is not None
    assert replies.results["forbidden"]["policy"].metrics["asr"].n == 3
    assert "its rates are those of 3 replies so far" in found.missing[0]


def test_what_cannot_be_read_is_said_and_the_rest_is_shown(tmp_path: Path) -> None:
    root = small_experiment(tmp_path / "results")
    broken = next(root.glob("none-benign/all"))
    (broken / SAMPLES).write_text('{"suite": "\\ud800"}\n')
    failed = AnalysisRecord(
        kind="landscape", name="plane", pair="pair", folder="plane", state="failed", error="out of memory"
    )
    record = json.loads((root / FILE).read_text())
    record["analyses"] = [failed.model_dump(), failed.model_dump() | {"kind": "tune", "error": None, "state": "done"}]
    (root / FILE).write_text(json.dumps(record))
    result = safelox.report(root, tmp_path / "page.html")
    assert result.models == 7
    assert any(SAMPLES in text for text in result.missing)
    assert "landscape plane failed: out of memory" in result.missing
    assert any("tune.json" in text for text in result.missing)


def test_a_folder_of_results_without_an_experiment(tmp_path: Path) -> None:
    write_results(tmp_path / "a" / "one", {"forbidden": mixed(1, 9)})
    write_results(tmp_path / "a" / "two", {"forbidden": mixed(8, 2), "permitted": mixed(5, 5)})
    found = read_folder(tmp_path)
    assert [model.name for model in found.models] == ["a/one", "a/two"]
    result = safelox.report(tmp_path, tmp_path / "page.html")
    assert result.charts == 4  # ASR, outcomes, utility, over-refusal
    assert "a/one complied with the fewest forbidden requests" in (tmp_path / "page.html").read_text()


def test_a_judge_of_refusals_alone_shows_refusals(tmp_path: Path) -> None:
    cells = [cell(tmp_path, defence, None, {"forbidden": mixed(2, 8)}) for defence in (NONE, LOX)]
    write_experiment(tmp_path, cells)
    for path in tmp_path.rglob(CONFIG):  # now the judge has no word for "complied"
        path.write_text(path.read_text().replace('"decides": {}', '"decides": {"policy": ["refused", "other"]}'))
        path.with_name(MANIFEST).unlink()
    found = read_folder(tmp_path)
    assert headlines(found) == []
    assert overview(found).startswith("No judge gives an attack success rate here")
    section = make_sections(found)[0]
    assert [figure.id for figure in section.figures] == ["refusal", "outcomes"]
    assert section.figures[0].charts[0].series[0].x == (0.8,)


def test_an_experiment_further_down_has_to_be_named(tmp_path: Path) -> None:
    small_experiment(tmp_path / "runs" / "one")
    with pytest.raises(TargetError, match=r"name its own folder, .*runs/one"):
        read_folder(tmp_path / "runs")


def test_every_pair_has_its_own_summary_and_charts(tmp_path: Path) -> None:
    cells = [
        one.model_copy(
            update={"pair": pair, "judged": (judged.model_copy(update={"folder": f"{pair}/{judged.folder}"}),)}
        )
        for pair, complied in (("small", 30), ("large", 20))
        for one in (
            cell(tmp_path / pair, NONE, attack("one"), {"forbidden": mixed(complied, 40 - complied)}),
            cell(tmp_path / pair, LOX, attack("one"), {"forbidden": mixed(3, 37)}),
        )
        for judged in one.judged
    ]
    found = read_folder(write_experiment(tmp_path, cells))
    assert [(h.pair, h.without and h.without.asr.count) for h in headlines(found)] == [("small", 30), ("large", 20)]
    assert found.models[0].name == "small · no defence · one"
    figure = make_sections(found)[0].figures[0]
    assert [chart.title for chart in figure.charts] == [
        "forbidden, judge policy, small",
        "forbidden, judge policy, large",
    ]


def test_mean_scores_stand_beside_published_ones_as_they_are(tmp_path: Path) -> None:
    root = write_experiment(
        tmp_path, [cell(tmp_path, NONE, None, {"forbidden": mixed(1, 1)}, expected={"forbidden.mean_score": 2.08})]
    )
    (section,) = [one for one in make_sections(read_folder(root)) if one.id == "expected"]
    (table,) = section.tables
    assert table.id == "expected-scores"
    assert table.texts() == [["no defence · before any attack", "2.08", "\u2013", "\u2013"]]


def test_every_analysis_has_charts_and_tables(tmp_path: Path) -> None:
    """By the names of their files, without an experiment."""
    write_analyses(tmp_path)
    (tmp_path / "tuned.drift.json").write_text(drift(0.5).model_dump_json())
    sections = {section.id: section for section in make_sections(read_folder(tmp_path))}
    assert set(sections) == {"rank-curve", "landscape", "spectra", "tune", "drift"}
    (curve,) = sections["rank-curve"].figures[0].charts
    assert [series.name for series in curve.series] == ["ASR", "refusal", "incoherent"]
    assert curve.series[0].y == (1.0, 0.3, 0.0, 0.0)
    assert "effective rank (rho 0.01) is 4; on resampled prompts also 1." in curve.caption
    (plane,) = sections["landscape"].figures[0].charts
    assert plane.grid is not None
    assert (plane.grid.x, plane.grid.y) == ((-2.0, 0.0, 2.0, 4.0), (0.0, 1.5, 3.0))
    assert plane.grid.values[2] == (1.0, 0.9, 0.7, 0.5)  # along hardening, at the most fine-tuning
    assert [series.name for series in plane.series][2] == "aligned, attacked"
    assert [table.id for table in sections["landscape"].tables] == ["basins"]
    assert sections["tune"].tables[0].texts()[0][:2] == ["rank 6, coef 0.5", "20.0 %"]
    front = next(series for series in sections["tune"].figures[0].charts[0].series if series.name == "Pareto front")
    assert front.x == (0.15, 0.45)
    (r_by_layer,) = sections["drift"].figures[0].charts
    assert (r_by_layer.title, r_by_layer.series[1].y) == (f"{tmp_path.name}/tuned", (0.5, 0.6))


def test_one_results_folder_by_itself(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "mine", {"forbidden": mixed(1, 9)})
    assert [model.name for model in read_folder(folder).models] == ["mine"]


def test_results_inside_an_analysis_belong_to_it(tmp_path: Path) -> None:
    write_results(tmp_path / "curve" / "rank-1", {"forbidden": mixed(1, 9)})
    (tmp_path / "curve" / "rank_curve.json").write_text("{}")
    with pytest.raises(TargetError, match=r"no results here.*rank_curve.json: not written by this version"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda _: None, "no such folder"),
        (lambda root: root.mkdir(), "no results here"),
        (lambda root: (root.mkdir(), (root / FILE).write_text("{}")), "experiment.json: not written by this version"),
    ],
)
def test_a_folder_without_results_is_refused(tmp_path: Path, prepare: object, message: str) -> None:
    prepare(tmp_path / "results")  # type: ignore[operator]
    with pytest.raises(TargetError, match=message):
        safelox.report(tmp_path / "results", tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_page_is_replaced_only_if_that_is_wanted(tmp_path: Path) -> None:
    root = write_results(tmp_path / "results", {"forbidden": mixed(1, 1)})
    page = tmp_path / "page.html"
    page.write_text("mine")
    with pytest.raises(TargetError, match="--overwrite"):
        safelox.report(root, page)
    assert page.read_text() == "mine"
    safelox.report(root, page, overwrite=True)
    assert page.read_text() != "mine"
    with pytest.raises(TargetError, match="this is a folder"):
        safelox.report(root, tmp_path)
    with pytest.raises(TargetError, match="Make it first"):
        safelox.report(root, tmp_path / "nowhere" / "page.html")
    with pytest.raises(TargetError, match="not empty"):
        safelox.report(root, tmp_path / "other.html", figures=root)


def test_the_same_results_give_the_same_page(tmp_path: Path) -> None:
    root = small_experiment(tmp_path / "results")
    for name in ("one", "two"):
        safelox.report(root, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_the_page_fetches_nothing_and_runs_its_own_scripts_alone(tmp_path: Path) -> None:
    safelox.report(small_experiment(tmp_path / "results"), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    allowed = dict(part.strip().partition(" ")[::2] for part in html.unescape(policy[1]).split(";"))
    assert allowed["default-src"] == "'none'"
    assert "unsafe" not in allowed["script-src"]
    assert len(allowed["script-src"].split()) == 3
    assert set(allowed) == {"default-src", "script-src", "style-src", "img-src", "base-uri", "form-action"}
    markup = re.sub(r"<script.*?</script>|<style.*?</style>", "", page, flags=re.DOTALL)
    assert not re.search(r'(src|href)="(?!#|data:)', markup)


def test_names_from_results_are_no_markup(tmp_path: Path) -> None:
    root = small_experiment(tmp_path / "results")
    record = json.loads((root / FILE).read_text())
    evil = "</script><script>alert(1)</script><!-- & {{ 7*7 }}"
    record["title"] = record["pairs"][0]["aligned"] = evil
    for one in record["defences"]:
        one["name"] = one["name"] + evil
    for one in record["cells"]:
        one["defence"] = one["defence"] and one["defence"] + evil
    (root / FILE).write_text(json.dumps(record))
    safelox.report(root, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<script>alert" not in page
    assert page.count("<!--") == 0
    assert "{{ 7*7 }}" in page
    assert page.count("</script>") == 5


def test_json_in_a_script_element_stays_json() -> None:
    text = "</script><!-- & \u2028 \u2029 \ud800 \x00"
    embedded = embed_json([text])
    assert not set("<>&\u2028\u2029") & set(embedded)
    assert json.loads(embedded) == [text]


def test_long_texts_are_cut_and_at_last_replies_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signs = random.Random(0)
    texts = {i: "".join(chr(signs.randrange(33, 126)) for _ in range(900)) for i in range(30)}
    texts[0] = "x" * (LONGEST + 5)
    write_results(tmp_path, {"forbidden": mixed(30, 0)}, texts=texts)
    found = read_folder(tmp_path)
    whole = pack(found)
    assert (whole.samples, whole.left_out, whole.longest) == (30, 0, LONGEST)
    monkeypatch.setattr("safelox.reporting.browser.LARGEST", len(whole.payload) // 2)
    cut = pack(found)
    assert cut.longest < LONGEST
    assert cut.samples == 30
    monkeypatch.setattr("safelox.reporting.browser.LARGEST", 2000)
    fewer = pack(found)
    assert 0 < fewer.samples < 30
    assert fewer.samples + fewer.left_out == 30


def test_published_values_stand_beside_ours(tmp_path: Path) -> None:
    outcomes = {"forbidden": mixed(4, 36)}
    root = write_experiment(
        tmp_path,
        [
            cell(tmp_path, NONE, None, outcomes, expected={"forbidden.asr": 0.11, "forbidden.refusal": 0.2}),
            cell(tmp_path, LOX, None, None, expected={"forbidden.asr": 0.0}),
        ],
    )
    (section,) = [one for one in make_sections(read_folder(root)) if one.id == "expected"]
    assert "a paper" in section.lead
    rows = [dict(zip([c.name for c in section.tables[0].columns], row, strict=True)) for row in section.tables[0].rows]
    assert [row["inside our interval"] for row in rows] == ["yes", "no", None]
    assert [row["ours"] for row in rows] == [0.1, 0.9, None]


def test_the_worst_variant_of_an_attack_is_named(tmp_path: Path) -> None:
    root = write_experiment(
        tmp_path,
        [
            cell(tmp_path, NONE, attack("benign"), {"forbidden": mixed(1, 9)}),
            cell(tmp_path, NONE, attack("benign", "lr x4"), {"forbidden": mixed(9, 1)}),
        ],
    )
    (section,) = [one for one in make_sections(read_folder(root)) if one.id == "worst-case"]
    assert section.tables[1].rows[0][:5] == ("benign", "no defence", "benign, lr x4", 2, 0.9)


def test_figures_and_tables_for_papers(tmp_path: Path) -> None:
    root = small_experiment(tmp_path / "results")
    result = safelox.report(root, tmp_path / "page.html", figures=tmp_path / "figures")
    names = set(result.figures)
    for chart in ("asr-0", "outcomes-0", "trade-0", "over-refusal-0"):
        assert {f"{chart}.svg", f"{chart}.png", f"{chart}.csv", f"{chart}.tex"} <= names
    assert {"worst-overall.csv", "contents.tex"} <= names
    assert names == {path.name for path in (tmp_path / "figures").iterdir()}
    assert (tmp_path / "figures" / "asr-0.svg").read_text().startswith("<?xml")
    with (tmp_path / "figures" / "asr-0.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    after = next(row for row in rows if (row["situation"], row["defence"]) == ("pure-bad", "LoX 6 x 1.25"))
    assert (after["count"], after["n"], after["ASR"]) == ("8", "40", "0.2")
    assert float(after["95 % interval low"]) < 0.2 < float(after["95 % interval high"])


def test_latex_sets_every_sign_as_it_is() -> None:
    assert escape_latex(r"50 % of a_b & c\d {e} #1 $x$ ~^<>|" + '"\n') == (
        r"50 \% of a\_b \& c\textbackslash{}d \{e\} \#1 \$x\$ \textasciitilde{}\textasciicircum{}\textless{}"
        r"\textgreater{}\textbar{}''"
    )
    table = make_table(
        "t", "a & b", [("name", "text"), ("share", "percent"), ("range", "bounds")], [["x_1", 0.5, None]]
    )
    text = to_latex(table)
    assert r"x\_1 & 50.0 \% & -- \\" in text
    assert r"\caption{a \& b}" in text
    assert r"\begin{tabular}{lrr}" in text


def test_csv_has_plain_numbers_and_no_formulas() -> None:
    columns = [("name", "text"), ("share", "percent"), ("interval", "bounds")]
    table = make_table("t", "", columns, [["=HYPERLINK(1)", 0.125, (0.1, 0.2)], ["a,b", float("nan"), None]])  # type: ignore[arg-type]
    assert to_csv(table).splitlines() == [
        "name,share,interval low,interval high",
        "'=HYPERLINK(1),0.125,0.1,0.2",
        '"a,b",,,',
    ]


def test_columns_that_say_one_thing_only_move_to_the_caption() -> None:
    table = make_table(
        "t", "Rates", [("suite", "text"), ("n", "count")], [["advbench", 1], ["advbench", 2]], once=("suite",)
    )
    assert table.caption == "Rates (advbench)"
    assert [column.name for column in table.columns] == ["n"]


@pytest.mark.parametrize("package", ["jinja2", "plotly.offline"])
def test_a_missing_package_is_named_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(PrerequisiteError, match=r"pip install 'safelox\[report\]'"):
        safelox.report(tmp_path / "nothing", tmp_path / "page.html")


def test_no_model_is_opened(tmp_path: Path) -> None:
    root = small_experiment(tmp_path / "results")
    loaded = set(sys.modules)
    safelox.report(root, tmp_path / "page.html")
    assert not {name for name in set(sys.modules) - loaded if name.split(".")[0] in ("transformers", "trl", "peft")}


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = small_experiment(tmp_path / "results")
    shutil.rmtree(root / "noise_6_x_1_25-pure-bad")
    page = tmp_path / "page.html"
    assert main(["report", str(root), "-o", str(page), "--figures", str(tmp_path / "figures")]) == 0
    said = capsys.readouterr().out
    assert said.startswith("In the worst case LoX helped. After the worst of 2 attacks")
    assert re.search(rf"page +{page} \(", said)
    assert "it has not been asked yet" in said
    assert main(["report", str(root), "-o", str(page), "--json", "--quiet"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "TargetError"
    assert main(["report", str(root), "-o", str(page), "--json", "--quiet", "--overwrite"]) == 0
    assert json.loads(capsys.readouterr().out)["models"] == 7


def test_results_that_were_spared(tmp_path: Path) -> None:
    """The folder is read, and nothing in it changes."""
    root = small_experiment(tmp_path / "results")
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    safelox.report(root, tmp_path / "page.html")
    assert before == {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
