"""Known data sets: the table, where files are found and what they are called, and fetching from loopback."""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

import safelox.known_data.fetching
import safelox.known_data.table
from hub_server import HubServer, serve_hub
from safelox.attacks import ATTACKS, read_rows
from safelox.cli import main
from safelox.errors import DataError, TargetError, UsageError
from safelox.known_data import KnownData, Source, StandIn, fetch, find, find_known, known_data, list_data, recognise
from safelox.known_data.checksums import digest
from safelox.known_data.finding import look_for
from safelox.known_data.table import Checksum

ORIGINAL, STAND_IN, OTHER = b'{"a": 1}\n{"a": 2}\n', b'{"a": 1}\n', b"something else\n"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FIXTURES = Path(__file__).parent / "fixtures" / "data"
ORIGINALS = os.environ.get("SAFELOX_DATA")  # before any test has taken it away
GUIDE = Path(__file__).parents[1] / "docs" / "data.md"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def source(kind: Any) -> Source:
    return Source(kind=kind, repository="org/name", revision=COMMIT, file="some data/a.jsonl")


def sums(name: str = "sums", **changes: Any) -> KnownData:
    fields: dict[str, Any] = {
        "name": name,
        "title": "sums",
        "file": "sums/train.jsonl",
        "also": ("train.jsonl",),
        "licence": "MIT",
        "note": "Handle with care.",
        "home": "https://example.org",
        "source": source("github"),
        "originals": (Checksum(sha256=sha256(ORIGINAL)),),
        "stand_ins": (
            StandIn(name="half", note="One row.", file="half.jsonl", checksum=Checksum(sha256=sha256(STAND_IN))),
        ),
        "used_by": ("attack sums",),
    }
    return KnownData(**(fields | changes))


@pytest.fixture(autouse=True)
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, KnownData]:
    """The only sets that `find` and the commands know in these tests; nothing of the user's own is in the way."""
    known = {
        "sums": sums(),
        "hosted": sums(
            "hosted",
            file="hosted.jsonl",
            also=(),
            source=source("dataset"),
            originals=(Checksum(sha256=sha256(OTHER)),),
            stand_ins=(),
        ),
        "kept": sums("kept", file="kept.jsonl", also=(), source=None, originals=(), stand_ins=(), note="Ask for it."),
    }
    for module in ("table", "finding", "listing"):
        monkeypatch.setattr(f"safelox.known_data.{module}.known_data", lambda: known)
    monkeypatch.delenv("SAFELOX_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return known


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "xdg" / "safelox" / "data"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with serve_hub(tmp_path / "hub", monkeypatch) as server:
        monkeypatch.setattr(safelox.known_data.fetching, "GITHUB", server.url)
        yield server


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# The table


def test_the_table_names_everything_once() -> None:
    known = known_data().values()
    assert len(known) == len({each.name for each in known}) >= 15
    files = [file for each in known for file in (each.file, *each.also, *(one.file for one in each.stand_ins))]
    assert len(files) == len(set(files))
    originals = [checksum for each in known for checksum in each.originals]
    stand_ins = [one.checksum for each in known for one in each.stand_ins]
    assert len({*originals, *stand_ins}) == len(originals) + len(stand_ins)


def test_what_can_be_fetched_cannot_change() -> None:
    for each in known_data().values():
        if each.source is not None:
            assert len(each.source.revision) == 40, each.name
    with pytest.raises(ValueError, match="needs a checksum"):
        sums(originals=())
    with pytest.raises(ValueError, match="needs a note"):
        sums(source=None, note=None)
    with pytest.raises(ValueError, match="give the SHA-256"):
        Checksum()


def test_the_guide_tells_of_every_data_set() -> None:
    rows = [line for line in GUIDE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    told = {cells[1].strip(" `"): cells for cells in (row.split("|") for row in rows)}
    assert list(told) == list(known_data())
    for name, cells in told.items():
        known = known_data()[name]
        assert cells[2].strip(" `") == known.file
        assert cells[3].strip() == known.licence
        assert known.home in cells[4]


def test_an_unknown_name_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(UsageError, match="no data set is called 'sum'; known are: sums, hosted, kept"):
        find_known(["sums", "sum"])


# Digests


def test_digests_are_those_of_sha256sum_and_of_git(tmp_path: Path) -> None:
    empty = digest(put(tmp_path / "empty", b""))
    assert empty.git_blob == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    content = bytes(range(256)) * 5000
    found = digest(put(tmp_path / "file", content))
    assert (found.record.bytes, found.record.sha256) == (len(content), sha256(content))
    assert found.git_blob == git_blob(content)
    assert found.match(Checksum(git_blob=found.git_blob))
    assert not found.match(Checksum(sha256=found.record.sha256, git_blob=empty.git_blob))


# Finding


def test_a_folder_that_is_named_comes_first_then_the_variable_then_the_cache(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = put(cache / "sums" / "train.jsonl", ORIGINAL)
    assert find("sums", "sums/train.jsonl", None).path == kept
    mine = put(tmp_path / "mine" / "half.jsonl", STAND_IN)
    monkeypatch.setenv("SAFELOX_DATA", str(tmp_path / "mine"))
    assert find("sums", "sums/train.jsonl", None).path == mine
    (tmp_path / "named").mkdir()
    assert find("sums", "sums/train.jsonl", tmp_path / "named").path == mine
    named = put(tmp_path / "named" / "train.jsonl", OTHER)
    assert find("sums", "sums/train.jsonl", tmp_path / "named").path == named
    own = put(tmp_path / "named" / "own.jsonl", OTHER)
    assert find("sums", "own.jsonl", tmp_path / "named").path == own
    assert find("sums", "sums/train.jsonl", own).path == own


def test_the_checksum_decides_what_a_file_is_called(tmp_path: Path) -> None:
    file = put(tmp_path / "half.jsonl", ORIGINAL)
    found = find("sums", "sums/train.jsonl", tmp_path)
    assert (found.label, found.kind, found.original, found.stand_in) == ("sums", "original", True, None)
    assert found.record.sha256 == sha256(ORIGINAL)
    put(file, STAND_IN)
    found = find("sums", "sums/train.jsonl", file)
    assert (found.label, found.kind, found.original) == ("sums (stand-in: half)", "stand-in", False)
    put(file, OTHER)
    found = find("sums", "sums/train.jsonl", tmp_path)
    assert found.label == f"sums (unrecognised file, sha256 {sha256(OTHER)[:12]})"
    assert (found.kind, found.original, found.stand_in) == ("unrecognised", False, None)


def test_an_original_is_recognised_by_its_git_blob_alone(tmp_path: Path, table: dict[str, KnownData]) -> None:
    table["sums"] = sums(originals=(Checksum(git_blob=git_blob(ORIGINAL)),))
    assert find("sums", "x", put(tmp_path / "a", ORIGINAL)).original
    assert find("sums", "x", put(tmp_path / "a", ORIGINAL + b"\n")).original is False


def test_without_a_known_checksum_there_is_no_telling(tmp_path: Path) -> None:
    found = find("kept", "kept.jsonl", put(tmp_path / "a.jsonl", ORIGINAL))
    assert found.original is None
    assert found.label.startswith("kept (unrecognised file, sha256 ")


def test_a_file_of_the_users_own_keeps_its_name_unless_its_bytes_are_known(tmp_path: Path) -> None:
    found = find(None, "x", put(tmp_path / "my rows.jsonl", b"{}\n"))
    assert (found.label, found.known, found.original) == ("my rows.jsonl", None, None)
    assert find(None, "x", put(tmp_path / "my rows.jsonl", OTHER)).label == "hosted"
    assert find(None, "x", put(tmp_path / "my rows.jsonl", STAND_IN)).label == "sums (stand-in: half)"


def test_what_is_nowhere_is_asked_for_with_the_way_to_it(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(DataError) as caught:
        find("sums", "sums/train.jsonl", tmp_path)
    text = str(caught.value)
    assert f"no file {tmp_path / 'sums/train.jsonl'} nor {cache / 'sums/train.jsonl'}. " in text
    assert text.endswith("`safelox data fetch sums` gets it (licence: MIT).")
    with pytest.raises(DataError, match=r"It cannot be fetched\. Ask for it\."):
        find("kept", "kept.jsonl", None, fetch=True)
    with pytest.raises(DataError, match=r"the data that is asked for is not there: no file .*own.jsonl"):
        find(None, "own.jsonl", None, fetch=True)
    with pytest.raises(DataError, match="nowhere: there is no such file or folder of data"):
        find("sums", "sums/train.jsonl", tmp_path / "nowhere")


def test_it_is_fetched_only_if_that_is_allowed(hub: HubServer, cache: Path, push: "Push") -> None:
    push(ORIGINAL)
    with pytest.raises(DataError):
        find("sums", "sums/train.jsonl", None)
    assert hub.requests == []
    found = find("sums", "sums/train.jsonl", None, fetch=True)
    assert (found.label, found.path) == ("sums", cache / "sums" / "train.jsonl")


# Fetching


class Push:
    """Puts content where the sources of this file's table point to."""

    def __init__(self, hub: HubServer) -> None:
        self.hub = hub

    def __call__(self, content: bytes, *, hosted: bool = False, path: str = "some data/a.jsonl", **state: bool) -> None:
        name = "datasets/org/name" if hosted else "org/name"
        made = self.hub.push(name, {path: content}, **state)
        commits = self.hub.repositories[name].commits
        commits[COMMIT] = commits.pop(made)


@pytest.fixture
def push(hub: HubServer) -> Push:
    return Push(hub)


def left_in(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file()]


def test_a_file_from_github(hub: HubServer, cache: Path, push: Push) -> None:
    push(ORIGINAL)
    assert fetch(sums()) == cache / "sums" / "train.jsonl"
    assert left_in(cache) == [cache / "sums" / "train.jsonl"]
    assert (cache / "sums" / "train.jsonl").read_bytes() == ORIGINAL
    count = len(hub.requests)
    assert fetch(sums()) == cache / "sums" / "train.jsonl"  # nothing is asked for again
    assert len(hub.requests) == count == 1


def test_a_data_set_of_the_hub(cache: Path, push: Push, table: dict[str, KnownData]) -> None:
    push(OTHER, hosted=True)
    assert fetch(table["hosted"]) == cache / "hosted.jsonl"
    assert left_in(cache) == [cache / "hosted.jsonl"]
    assert (cache / "hosted.jsonl").read_bytes() == OTHER


@pytest.mark.parametrize("name", ["sums", "hosted"])
def test_other_bytes_are_not_kept(cache: Path, push: Push, table: dict[str, KnownData], name: str) -> None:
    push(STAND_IN, hosted=name == "hosted")
    with pytest.raises(DataError, match=rf"{sha256(STAND_IN)}.* is not the original \(.*\)\. It was not kept"):
        fetch(table[name])
    assert left_in(cache) == []


@pytest.mark.parametrize("name", ["sums", "hosted"])
def test_a_file_that_is_gone(cache: Path, push: Push, table: dict[str, KnownData], name: str) -> None:
    push(ORIGINAL, hosted=name == "hosted", path="elsewhere")
    with pytest.raises(DataError, match=r"there is no file at http://.*/some%20data/a.jsonl any more"):
        fetch(table[name])
    assert left_in(cache) == []


def test_gated_data(cache: Path, push: Push, table: dict[str, KnownData], monkeypatch: pytest.MonkeyPatch) -> None:
    push(OTHER, hosted=True, gated=True)
    with pytest.raises(DataError, match=r"accept its terms at http://.*/datasets/org/name and set HF_TOKEN"):
        fetch(table["hosted"])
    push(ORIGINAL, gated=True)
    with pytest.raises(DataError, match=r"is restricted \(HTTP 401\)"):
        fetch(table["sums"])
    assert left_in(cache) == []
    monkeypatch.setenv("HF_TOKEN", HubServer.token)
    assert fetch(table["hosted"]).read_bytes() == OTHER


def test_a_connection_that_breaks(hub: HubServer, cache: Path, push: Push, table: dict[str, KnownData]) -> None:
    push(ORIGINAL)
    hub.cuts["some data/a.jsonl"] = [5]
    with pytest.raises(DataError, match=rf"broke after 5 of {len(ORIGINAL)} bytes"):
        fetch(table["sums"])
    assert left_in(cache) == []
    assert fetch(table["sums"]).read_bytes() == ORIGINAL


def test_a_torn_download_from_the_hub_goes_on(
    hub: HubServer, push: Push, table: dict[str, KnownData], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 4)
    push(OTHER, hosted=True)
    hub.cuts["some data/a.jsonl"] = [5]
    assert fetch(table["hosted"]).read_bytes() == OTHER
    assert hub.downloads("a.jsonl")[-1].start > 0


@pytest.mark.parametrize("name", ["sums", "hosted"])
def test_a_server_that_is_down(
    hub: HubServer, cache: Path, table: dict[str, KnownData], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    nobody = "http://127.0.0.1:9"
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)  # between its attempts
    monkeypatch.setattr(safelox.known_data.fetching, "GITHUB", nobody)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", nobody)
    monkeypatch.setattr(
        huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", nobody + "/{repo_id}/resolve/{revision}/{filename}"
    )
    with pytest.raises(DataError, match=r"127.0.0.1:9/.* cannot be reached: .*Check the network"):
        fetch(table[name])
    assert left_in(cache) == []
    assert hub.requests == []


def test_errors_of_the_server(hub: HubServer, push: Push, table: dict[str, KnownData]) -> None:
    push(ORIGINAL)
    hub.failing = True
    with pytest.raises(DataError, match=r"answered with HTTP 500\. Try again later"):
        fetch(table["sums"])


@pytest.mark.parametrize("name", ["sums", "hosted"])
def test_offline_nothing_is_asked(
    hub: HubServer, table: dict[str, KnownData], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"HF_HUB_OFFLINE is set. Unset it to fetch, or put the file at .*xdg/safelox"):
        fetch(table[name])
    assert hub.requests == []


def test_what_stands_in_the_cache_is_not_replaced(hub: HubServer, cache: Path) -> None:
    file = put(cache / "sums" / "train.jsonl", STAND_IN)
    with pytest.raises(DataError, match="something else than the original of sums has its name"):
        fetch(sums())
    assert file.read_bytes() == STAND_IN
    assert hub.requests == []


def test_a_full_disk(push: Push, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push(ORIGINAL)

    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safelox.known_data.fetching, "sync", full)
    with pytest.raises(TargetError, match=r"train.jsonl: cannot be written: No space left on device\. Free some space"):
        fetch(sums())
    assert left_in(cache) == []


# The command line


def test_the_list_for_people_and_for_programs(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(cache / "sums" / "train.jsonl", ORIGINAL)
    put(tmp_path / "mine" / "half.jsonl", STAND_IN)
    put(tmp_path / "mine" / "kept.jsonl", OTHER)
    assert main(["data"]) == 0
    text = capsys.readouterr().out
    assert f"the original: {cache / 'sums/train.jsonl'}" in text
    assert f"1 of 3 are there. Looked in: {cache}" in text
    assert main(["data", "--data", str(tmp_path / "mine")]) == 0
    text = capsys.readouterr().out
    assert "sums (stand-in: half): " in text
    assert "One row." in text
    assert main(["data", "--data", str(tmp_path / "mine"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {each["name"]: each["state"] for each in printed["data"]} == {
        "sums": "stand-in",
        "hosted": "missing",
        "kept": "unrecognised",
    }
    assert printed["data"][0]["known"]["originals"] == [{"sha256": sha256(ORIGINAL), "git_blob": None}]
    assert printed["data"][0]["fetched_from"].endswith(f"/org/name/{COMMIT}/some%20data/a.jsonl")
    assert printed == list_data(tmp_path / "mine").model_dump(mode="json")


def test_the_list_needs_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "--data", str(tmp_path / "nowhere")]) == 1
    assert "nowhere: there is no such folder of data" in capsys.readouterr().err
    assert main(["data", "--json", "fetch", "sums"]) == 2
    assert "give options after `fetch`" in capsys.readouterr().err


def test_fetching_tells_the_licence(push: Push, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    push(ORIGINAL)
    assert main(["data", "fetch", "sums"]) == 0
    text = capsys.readouterr().out
    assert f"sums: {cache / 'sums/train.jsonl'}" in text
    assert "MIT. Handle with care." in text
    assert main(["data", "fetch", "sums", "--json"]) == 0
    assert [each["state"] for each in json.loads(capsys.readouterr().out)["data"]] == ["original"]
    assert main(["data", "fetch", "sums", "addends"]) == 2
    assert main(["data", "fetch", "kept"]) == 1
    assert "It cannot be fetched. Ask for it." in capsys.readouterr().err


# Fixtures in the published formats


def columns(path: Path) -> list[str]:
    """Names of the fields of a file's first row; roles of its messages where it is a list of them."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".csv":
        return next(csv.reader(io.StringIO(text)))
    try:
        row = json.loads(text)[0]
    except json.JSONDecodeError:
        row = json.loads(text.splitlines()[0])
    return [message["role"] for message in row] if isinstance(row, list) else list(row)


def test_every_data_set_has_a_fixture_that_is_not_taken_for_it() -> None:
    for name, known in known_data().items():
        found = recognise(FIXTURES / known.file, known)
        assert found.kind == "unrecognised", name


def test_fixtures_have_the_columns_of_the_originals() -> None:
    if ORIGINALS is None:
        pytest.skip("SAFELOX_DATA does not say where originals are")
    compared = 0
    for known in known_data().values():
        path = look_for(known.file, known, [Path(ORIGINALS)])
        if path is not None and recognise(path, known).original:
            assert set(columns(FIXTURES / known.file)) == set(columns(path)), known.name
            compared += 1
    assert compared


def test_published_attacks_read_the_data_sets_that_they_name() -> None:
    named = {attack.name: attack for attack in ATTACKS.values() if attack.source is not None}
    for name, attack in named.items():
        known = known_data()[attack.source or ""]
        assert known.file == attack.file
        assert f"attack {name}" in known.used_by
        assert len(read_rows(FIXTURES / known.file, attack.reader)) >= 2
    uses = {use.removeprefix("attack ") for known in known_data().values() for use in known.used_by if "attack" in use}
    assert uses - {"--safeinst"} == set(named)
