"""Benchmarks by name and by folder, in every layout they are published in, and the published scores beside ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_hub import COMMIT, cache_snapshot

from edgecolbert import Encoder, InputError
from edgecolbert.benchmarks import BRIGHT, LONGEMBED, NANOBEIR, Found, find_benchmark
from edgecolbert.cli import main
from edgecolbert.evaluation import evaluate
from edgecolbert.layouts import find_collections, read_place
from edgecolbert.manifest import ModelManifest
from edgecolbert.published import Options, compare_with_published
from edgecolbert.recipes import find_recipe_for, known_recipes, read_recipe

TINY = Path(__file__).parent / "fixtures" / "tiny-model"
TEXTS = {
    "d1": "Bees dance to tell where food is.",
    "d2": "The moon raises two tides a day.",
    "d3": "The red kettle stands in the left cupboard.",
    "d4": "Bins go out on Tuesday.",
}
QUERIES = {"q1": "dancing bees", "q2": "tides of the moon", "q3": "never judged"}

Records = list[dict[str, Any]]
Writer = Callable[[Path, Records], None]


def write_lines(path: Path, records: Records) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in records), encoding="utf-8")


def write_parquet(path: Path, records: Records) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    half = max(1, len(records) // 2)
    for number, shard in enumerate((records[:half], records[half:])):
        name = f"{path.name}-{number:05d}-of-00002.parquet"
        parquet.write_table(
            arrow.Table.from_pylist(shard or records[:0], arrow.Table.from_pylist(records).schema), path.parent / name
        )


def write_nanobeir(folder: Path, write: Writer = write_lines, split: str = "train") -> Path:
    write(folder / "corpus" / split, [{"_id": name, "text": text} for name, text in TEXTS.items()])
    write(folder / "queries" / split, [{"_id": name, "text": text} for name, text in QUERIES.items()])
    write(
        folder / "qrels" / split,
        [{"query-id": "q1", "corpus-id": "d1"}, {"query-id": "q2", "corpus-id": "d2"}],
    )
    return folder


def write_bright(folder: Path, domains: tuple[str, ...] = ("biology", "aops"), write: Writer = write_lines) -> Path:
    for domain in domains:
        write(folder / "documents" / domain, [{"id": name, "content": text} for name, text in TEXTS.items()])
        excluded = ["d1", "d3", "gone"] if domain == "aops" else ["N/A"]
        write(
            folder / "examples" / domain,
            [
                {"id": "0", "query": QUERIES["q1"], "gold_ids": ["d4"], "excluded_ids": excluded, "reasoning": ""},
                {"id": "1", "query": QUERIES["q2"], "gold_ids": ["d2"], "excluded_ids": ["N/A"], "reasoning": ""},
            ],
        )
    return folder


def write_longembed(folder: Path, tasks: tuple[str, ...] = ("qmsum", "needle"), write: Writer = write_lines) -> Path:
    for task in tasks:
        corpus, queries, qrels = [], [], []
        for length in (256, 512) if task in ("needle", "passkey") else (0,):
            extra = {"context_length": length} if length else {}
            corpus += [{"doc_id": f"{name}-{length}", "text": text} | extra for name, text in TEXTS.items()]
            queries += [{"qid": f"q1-{length}", "text": QUERIES["q1"]} | extra]
            qrels += [{"qid": f"q1-{length}", "doc_id": f"d1-{length}"} | extra]
        for part, records in (("corpus", corpus), ("queries", queries), ("qrels", qrels)):
            write(folder / task / part, records)
    return folder


@pytest.fixture
def tiny() -> Encoder:
    return Encoder.load(TINY, threads=1)


def named(encoder: Encoder, name: str) -> Encoder:
    """The tiny model under a published name, so that it has that model's recipe."""
    return Encoder(replace(encoder.manifest, name=name), threads=1)


def read(folder: Path, part: str = "") -> list[Any]:
    return [collection for place in find_collections(folder, part) for collection in read_place(place)]


# Layouts


@pytest.mark.parametrize("write", [write_lines, write_parquet])
def test_nanobeir_has_the_judged_queries_and_goes_by_its_folders_name(tmp_path: Path, write: Writer) -> None:
    (collection,) = read(write_nanobeir(tmp_path / "NanoTest", write))
    assert collection.name == "NanoTest"
    assert [record["id"] for record in collection.documents] == list(TEXTS)
    assert collection.queries == {name: QUERIES[name] for name in ("q1", "q2")}
    assert collection.qrels == {"q1": {"d1": 1}, "q2": {"d2": 1}}
    assert collection.excluded == {}


def test_nanobeir_of_several_splits_is_several_collections_named_by_them(tmp_path: Path) -> None:
    for split in ("NanoSciFact", "NanoNQ"):
        write_nanobeir(tmp_path, split=split)
    assert [collection.name for collection in read(tmp_path)] == ["NanoNQ", "NanoSciFact"]
    assert [collection.name for collection in read(tmp_path, "nanoscifact")] == ["NanoSciFact"]


def test_nanobeir_takes_documents_that_its_splits_share_and_never_those_of_another_split(tmp_path: Path) -> None:
    for split in ("a", "b"):
        write_nanobeir(tmp_path, split=split)
    (tmp_path / "corpus" / "b.jsonl").unlink()
    with pytest.raises(InputError, match=r"corpus has no \.parquet or \.jsonl file of b"):
        read(tmp_path)
    (tmp_path / "corpus" / "a.jsonl").rename(tmp_path / "corpus" / "corpus.jsonl")
    assert [len(collection.documents) for collection in read(tmp_path)] == [4, 4]


def test_nanobeir_keeps_grades_joins_titles_and_leaves_out_empty_documents(tmp_path: Path) -> None:
    write_nanobeir(tmp_path)
    write_lines(
        tmp_path / "corpus" / "train",
        [{"_id": "d1", "text": "text\u2028more", "title": "Title"}, {"_id": "d2", "text": "", "title": "Title"}],
    )
    write_lines(
        tmp_path / "qrels" / "train",
        [{"query-id": "q1", "corpus-id": ["d1", "d2"]}, {"query-id": "q2", "corpus-id": "d1", "score": 2},
         {"query-id": "q3", "corpus-id": "d1", "score": 0}],
    )  # fmt: skip
    (collection,) = read(tmp_path)
    assert collection.documents == [{"id": "d1", "text": "Title text\u2028more"}]
    assert collection.qrels == {"q1": {"d1": 1, "d2": 1}, "q2": {"d1": 2}}


@pytest.mark.parametrize("write", [write_lines, write_parquet])
def test_bright_has_a_collection_for_each_domain_and_keeps_what_is_excluded(tmp_path: Path, write: Writer) -> None:
    folder = write_bright(tmp_path, write=write)
    aops, biology = read(folder)
    assert (aops.name, biology.name) == ("aops", "biology")
    assert aops.qrels == biology.qrels == {"0": {"d4": 1}, "1": {"d2": 1}}
    assert aops.excluded == {"0": {"d1", "d3", "gone"}}
    assert biology.excluded == {}
    assert [collection.name for collection in read(folder, "Biology")] == ["biology"]


@pytest.mark.parametrize("write", [write_lines, write_parquet])
def test_longembed_has_a_collection_for_each_length_of_a_synthetic_task(tmp_path: Path, write: Writer) -> None:
    folder = write_longembed(tmp_path, write=write)
    assert [place.name for place in find_collections(folder)] == ["needle", "qmsum"]
    short, long, qmsum = read(folder)
    assert (short.name, short.metric, list(short.qrels)) == ("needle_256", "ndcg@1", ["q1-256"])
    assert (long.name, {record["id"] for record in long.documents}) == ("needle_512", {f"{name}-512" for name in TEXTS})
    assert (qmsum.name, qmsum.metric, qmsum.qrels) == ("qmsum", "ndcg@10", {"q1-0": {"d1-0": 1}})
    assert len(read(folder / "needle")) == 2


def test_only_the_first_queries_are_taken_where_that_is_asked(tmp_path: Path) -> None:
    (place,) = find_collections(write_nanobeir(tmp_path))
    assert list(read_place(place, max_queries=1)[0].queries) == ["q1"]


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("nano/qrels/train.jsonl", '{"query": "q1"}', r"qrels.train\.jsonl has no column 'query-id', only \['query'\]"),
        ("nano/corpus/train.jsonl", '{"_id": "d1"}', r"corpus.train\.jsonl has no column 'text'"),
        ("nano/queries/train.jsonl", None, r"queries has no \.parquet or \.jsonl file of train"),
        ("nano/queries/train.jsonl", "[]", r"train\.jsonl, line 1 is list, expected an object"),
        ("nano/queries/train.jsonl", "{", r"train\.jsonl, line 1 is no JSON"),
        ("nano/qrels/train.jsonl", "", r"nano has 4 documents and 0 judged queries"),
        ("bright/documents/aops.jsonl", None, r"documents has no \.parquet or \.jsonl file of aops"),
        ("bright/examples/aops.jsonl", '{"id": "0", "query": "x", "gold_ids": []}', r"has no column 'excluded_ids'"),
        ("long/needle/qrels.jsonl", '{"qid": "q1-256"}', r"qrels\.jsonl has no column 'doc_id'"),
        ("long/needle/corpus.jsonl", "", r"needle has no documents"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, path: str, content: str | None, message: str) -> None:
    write_nanobeir(tmp_path / "nano")
    write_bright(tmp_path / "bright", ("biology", "aops"))
    write_longembed(tmp_path / "long")
    (tmp_path / path).unlink() if content is None else (tmp_path / path).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read(tmp_path / Path(path).parts[0])


def test_a_file_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    write_nanobeir(tmp_path / "nano")
    (tmp_path / "nano" / "queries" / "train.jsonl").write_bytes(b'{"_id": "q1", "text": "caf\xe9"}\n')
    with pytest.raises(InputError, match=r"train\.jsonl is not JSON Lines in UTF-8: .*Copy it again"):
        read(tmp_path / "nano")


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    write_nanobeir(tmp_path)
    (tmp_path / "corpus" / "train.jsonl").unlink()
    (tmp_path / "corpus" / "train.parquet").write_text("nonsense", encoding="utf-8")
    with pytest.raises(InputError, match=r"train\.parquet is no Parquet file"):
        read(tmp_path)


# Names


def test_names_of_benchmarks_mean_the_hubs_datasets(tmp_path: Path) -> None:
    for name in NANOBEIR:
        write_nanobeir(cache_snapshot(tmp_path, f"zeta-alpha-ai/Nano{name}", kind="dataset"))
    write_bright(cache_snapshot(tmp_path, "xlangai/BRIGHT", kind="dataset"), BRIGHT)
    write_longembed(cache_snapshot(tmp_path, "dwzhu/LongEmbed", kind="dataset"), LONGEMBED)

    def names(specification: str) -> list[str]:
        return [found.place.name for found in find_benchmark(specification, cache=tmp_path, offline=True)]

    assert names("nanobeir") == [f"Nano{name}" for name in NANOBEIR]
    assert names("NanoBEIR:scifact") == names("nanobeir:NanoSciFact") == ["NanoSciFact"]
    assert names("zeta-alpha-ai/NanoNQ") == ["NanoNQ"]
    assert names("bright") == list(BRIGHT)
    assert names("bright:earth_science") == ["earth_science"]
    assert names(f"bright@{COMMIT}:pony") == names("xlangai/BRIGHT:pony") == ["pony"]
    assert names("longembed") == list(LONGEMBED)
    assert names("longembed:2wikimqa") == ["2wikimqa"]
    assert {found.commit for found in find_benchmark("bright", cache=tmp_path, offline=True)} == {COMMIT}


@pytest.mark.parametrize(
    ("specification", "message"),
    [
        ("nanobeir:nothing", "nanobeir has no collection 'nothing', expected one of .*SciFact"),
        ("bright:chemistry", "bright has no collection 'chemistry', expected one of biology, earth_science"),
        ("longembed:qasper", "longembed has no collection 'qasper', expected one of narrativeqa"),
        ("beir", "'beir' is no test collection: expected a folder, nanobeir, bright, longembed, .* OWNER/NAME"),
        ("bright", "The dataset 'xlangai/BRIGHT' .* cannot be fetched .*Run it once with a network"),
        ("owner/none", "The dataset 'owner/none' is no folder here, and cannot be fetched from the Hugging Face hub"),
    ],
)
def test_what_is_no_collection_is_said_with_what_there_is(tmp_path: Path, specification: str, message: str) -> None:
    pytest.importorskip("huggingface_hub")
    with pytest.raises(InputError, match=message):
        find_benchmark(specification, cache=tmp_path, offline=True)


def test_a_folder_is_preferred_to_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bright(tmp_path / "bright")
    monkeypatch.chdir(tmp_path)
    assert [found.place.name for found in find_benchmark("bright")] == ["aops", "biology"]
    assert [found.place.name for found in find_benchmark("bright:aops")] == ["aops"]
    with pytest.raises(InputError, match="bright has no collection 'pony', expected one of aops, biology"):
        find_benchmark("bright:pony")


# Scores


def test_excluded_documents_are_taken_out_before_scoring(tmp_path: Path, tiny: Encoder) -> None:
    (collection,) = read(write_bright(tmp_path / "bright"), "aops")
    report = evaluate(collection, tmp_path / "a.db", model=tiny, n_candidates=2, runs=tmp_path / "runs")
    plain = evaluate(replace(collection, excluded={}), tmp_path / "b.db", model=tiny, n_candidates=2,
                     runs=tmp_path / "plain")  # fmt: skip

    def ranking(folder: str, stage: str) -> list[str]:
        lines = (tmp_path / folder / f"{stage}.trec").read_text().splitlines()
        return [line.split()[2] for line in lines if line.startswith("0 ")]

    whole = ranking("plain", "exact")
    assert set(whole) == set(TEXTS)
    assert ranking("runs", "exact") == [name for name in whole if name not in ("d1", "d3")]
    # The first stage gives its two places to documents that count, and both are scored.
    for stage in ("fde", "rerank"):
        assert sorted(ranking("runs", stage)) == ["d2", "d4"]
    assert ranking("runs", "rerank") == ranking("runs", "exact")
    assert report["stages"]["exact"]["ndcg@10"] >= plain["stages"]["exact"]["ndcg@10"]
    assert report["stages"]["exact"]["recall@100"] == report["stages"]["rerank"]["recall@100"] == 1.0


def test_scores_do_not_depend_on_how_many_queries_are_scored_at_once(
    tmp_path: Path, tiny: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (collection,) = read(write_bright(tmp_path / "bright"), "aops")
    for name, pairs in (("all", 2_000_000), ("each", 1)):
        monkeypatch.setattr("edgecolbert.evaluation._PAIRS", pairs)
        evaluate(collection, tmp_path / f"{name}.db", model=tiny, runs=tmp_path / name)
    assert (tmp_path / "all" / "exact.trec").read_text() == (tmp_path / "each" / "exact.trec").read_text()


def test_published_scores_stand_beside_ours(tmp_path: Path, tiny: Encoder) -> None:
    model = named(tiny, "mxbai-edge-colbert-v0-17m")
    places = find_collections(write_nanobeir(tmp_path / "NanoSciFact"))
    rows = compare_with_published(model, [Found(place) for place in places])["collections"]
    row = rows["NanoSciFact"]
    assert (row["published"], row["documents"], row["queries"]) == (0.7943, 4, 2)
    assert row["difference"] == pytest.approx(row["ours"] - 0.7943, abs=1e-4)
    (collection,) = read(tmp_path / "NanoSciFact")
    assert row["ours"] == pytest.approx(
        evaluate(collection, tmp_path / "x.db", model=tiny)["stages"]["exact"]["ndcg@10"], abs=1e-4
    )
    # A mean over one collection is not comparable with the card's over thirteen.
    assert rows["mean"]["published"] is None


def test_the_published_mean_is_compared_over_the_same_collections_only(tmp_path: Path, tiny: Encoder) -> None:
    for name in NANOBEIR:
        write_nanobeir(tmp_path / f"Nano{name}")
    model = named(tiny, "colbert-zero")
    found = find_benchmark(str(tmp_path))
    rows = compare_with_published(model, found)["collections"]
    assert rows["mean"]["published"] == 0.6814
    ours = [row["ours"] for name, row in rows.items() if name != "mean"]
    assert rows["mean"]["ours"] == pytest.approx(sum(ours) / 13, abs=1e-4)
    assert compare_with_published(model, found[1:])["collections"]["mean"]["published"] is None


def test_a_checkpoint_is_known_by_its_source_where_its_name_says_nothing(tmp_path: Path, tiny: Encoder) -> None:
    manifest = replace(tiny.manifest, name="mine", source={"name": "lightonai/colbert-zero"})
    found = find_benchmark(str(write_nanobeir(tmp_path / "NanoSciFact")))
    assert compare_with_published(Encoder(manifest), found)["collections"]["NanoSciFact"]["published"] == 0.802
    report = compare_with_published(named(tiny, "nobody"), found)
    assert report["collections"]["NanoSciFact"]["published"] is None
    assert report["notes"] == ["No recipe is known for this model, so no published scores."]


def test_bright_is_measured_with_the_lengths_of_the_recipe(
    tmp_path: Path, tiny: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = read_recipe("reason-mxbai-colbert-v0-32m")
    general = recipe.protocol("bright", "biology")
    assert (general["query_length"], general["document_length"]) == (256, 2048)
    assert recipe.protocol("bright", "pony") == general | {"query_length": 32}
    assert recipe.protocol("nanobeir", "NanoNQ") == {}

    small = {"query_length": 16, "document_length": 24, "pony": {"query_length": 8}}
    monkeypatch.setattr(
        "edgecolbert.published._recipe_of", lambda encoder: replace(recipe, evaluation={"bright": small})
    )
    found = find_benchmark(str(write_bright(tmp_path / "bright", ("biology", "pony"))))
    rows = compare_with_published(tiny, found)["collections"]
    assert (rows["biology"]["published"], rows["pony"]["published"]) == (0.3271, 0.2073)
    assert (rows["biology"]["query_length"], rows["pony"]["query_length"]) == (16, 8)
    assert (rows["biology"]["document_length"], rows["pony"]["document_length"]) == (24, 24)


def test_the_recipes_instruction_is_put_before_brights_queries_where_that_is_asked(
    tmp_path: Path, tiny: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, str]] = []
    measure = evaluate

    def record(collection: Any, *arguments: Any, **options: Any) -> Any:
        seen.append(collection.queries)
        return measure(collection, *arguments, **options)

    monkeypatch.setattr("edgecolbert.published.evaluate", record)
    recipe = replace(
        read_recipe("starter"), evaluation={"bright": {"query_template": "Given a {domain} post.\nQuery: {query}"}}
    )
    monkeypatch.setattr("edgecolbert.published._recipe_of", lambda encoder: recipe)
    bright = find_benchmark(str(write_bright(tmp_path / "bright", ("earth_science",))))
    nano = find_benchmark(str(write_nanobeir(tmp_path / "nano")))
    compare_with_published(tiny, bright)
    compare_with_published(tiny, bright, Options(instruction=True))
    report = compare_with_published(tiny, nano, Options(instruction=True))
    assert [queries[next(iter(queries))] for queries in seen] == [
        "dancing bees",
        "Given a earth science post.\nQuery: dancing bees",
        "dancing bees",
    ]
    assert report["notes"][-1] == "The recipe has no instruction for this benchmark; queries are as they are."


def test_the_mean_of_longembed_is_compared_at_the_published_document_length(tmp_path: Path, tiny: Encoder) -> None:
    encoding = replace(tiny.manifest.encoding, max_positions=5000)
    model = Encoder(replace(tiny.manifest, name="mxbai-edge-colbert-v0-17m", encoding=encoding), threads=1)
    found = find_benchmark(str(write_longembed(tmp_path, LONGEMBED)))
    rows = compare_with_published(model, found, Options(document_length=4096))["collections"]
    assert rows["mean"]["published"] == 0.776
    assert (rows["needle"]["metric"], rows["needle"]["documents"], rows["qmsum"]["metric"]) == ("ndcg@1", 8, "ndcg@10")
    assert compare_with_published(model, found)["collections"]["mean"]["published"] is None
    with pytest.raises(InputError, match=r"The model .* cannot be measured with \{'document_length': 9999\}"):
        compare_with_published(model, found, Options(document_length=9999))


def test_what_was_not_measured_as_published_is_not_compared(tmp_path: Path, tiny: Encoder) -> None:
    found = find_benchmark(str(write_nanobeir(tmp_path / "NanoSciFact")))
    report = compare_with_published(named(tiny, "colbert-zero"), found, Options(max_queries=1, passages=True))
    assert report["collections"]["NanoSciFact"]["queries"] == 1
    assert report["collections"]["NanoSciFact"]["published"] is None
    assert report["notes"] == ["Not measured as published: the first queries only, passages."]
    report = compare_with_published(named(tiny, "colbert-zero"), found, Options(document_length=16))
    assert report["collections"]["NanoSciFact"]["published"] is None
    assert report["notes"] == ["Not measured as published: another document length."]


def test_a_database_is_kept_for_one_collection_only(tmp_path: Path, tiny: Encoder) -> None:
    options = Options(database=tmp_path / "kept.db")
    bright = find_benchmark(str(write_bright(tmp_path / "bright")))
    with pytest.raises(InputError, match="--db keeps the database of one collection, but there are 2"):
        compare_with_published(tiny, bright, options)
    needle = find_benchmark(f"{write_longembed(tmp_path / 'long')}:needle")
    with pytest.raises(InputError, match="--db keeps the database of one collection, but needle is 2"):
        compare_with_published(tiny, needle, options)
    compare_with_published(tiny, bright[:1], options)
    assert (tmp_path / "kept.db").exists()


# Recipes


def test_every_recipe_is_read_and_found_by_its_source() -> None:
    for name in known_recipes():
        recipe = read_recipe(name)
        if recipe.source != "local":
            found = find_recipe_for(f"{recipe.source.upper()}@main")
            assert found is not None
            assert found.name == name
        for benchmark, parts in (("nanobeir", {f"Nano{part}" for part in NANOBEIR}), ("bright", set(BRIGHT))):
            table = recipe.published.get(f"{benchmark}_ndcg@10")
            if table is not None:
                assert set(table) - {"mean"} == parts
                scores = [score for part, score in table.items() if part != "mean"]
                assert table["mean"] == pytest.approx(sum(scores) / len(scores), abs=2e-4)


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ("evaluation = 3", "evaluation is not a table"),
        ("[evaluation]\nbright = 3", "evaluation.bright is not a table"),
        ("[evaluation.bright]\nlength = 3", r"unknown keys \['length'\] in evaluation\.bright"),
        ("[evaluation.bright.pony]\nquery_length = '3'", "evaluation.bright.pony.query_length is '3', expected int"),
        ("[evaluation.bright]\nquery_template = 'x'", r"query_template does not say where the \{query\} goes"),
    ],
)
def test_a_wrong_protocol_in_a_recipe_is_named(tmp_path: Path, evaluation: str, message: str) -> None:
    path = tmp_path / "recipe.toml"
    model = '[model]\nname = "x"\nsource = "local"\n'
    path.write_text(f"{evaluation}\n{model}" if evaluation.startswith("evaluation") else f"{model}{evaluation}\n")
    with pytest.raises(InputError, match=message):
        read_recipe(str(path))


# The command


def test_the_command_prints_a_table_and_the_same_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = ModelManifest.read(TINY)
    folder = tmp_path / "model"
    folder.mkdir()
    for name in manifest.files:
        (folder / name).write_bytes((TINY / name).read_bytes())
    (folder / "manifest.json").write_text(replace(manifest, name="colbert-zero").to_json(), encoding="utf-8")
    for name in ("NanoSciFact", "NanoNQ"):
        write_nanobeir(tmp_path / "some" / name)

    words = ["eval", str(tmp_path / "some"), "--model", str(folder), "--runs", str(tmp_path / "runs")]
    assert main([*words, "--json"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert captured.err.splitlines()[0] == "1 of 2: NanoNQ"
    assert (report["model"], report["benchmark"], list(report["collections"])) == (
        "colbert-zero", "nanobeir", ["NanoNQ", "NanoSciFact", "mean"],
    )  # fmt: skip
    assert (tmp_path / "runs" / "NanoSciFact" / "exact.trec").exists()

    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "nDCG@10, model colbert-zero, full MaxSim, and with 100 candidates"
    assert lines[1].split() == ["documents", "queries", "ours", "published", "difference", "two", "stages"]
    row = report["collections"]["NanoSciFact"]
    difference, two_stages = f"{row['difference']:+.4f}", f"{row['two_stages']:.4f}"
    assert lines[3].split() == ["NanoSciFact", "4", "2", f"{row['ours']:.4f}", "0.8020", difference, two_stages]
    assert lines[4].split()[0] == "mean"


def test_the_command_measures_one_collection_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bright(tmp_path / "bright")
    assert main(["eval", f"{tmp_path / 'bright'}:aops", "--model", str(TINY), "--document-length", "16"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["aops", "No", "Not"]
    assert "No recipe is known for this model, so no published scores." in lines
    assert main(["eval", f"{tmp_path / 'bright'}:pony", "--model", str(TINY)]) == 1
    assert "has no collection 'pony'" in capsys.readouterr().err
