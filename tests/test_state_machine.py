"""Any sequence of changes leaves the index equal to a dictionary that was changed alike."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from word_encoder import WordEncoder

from edgecolbert import CancelledError, Index, field, maxsim, reencode
from edgecolbert.codec import quantize
from edgecolbert.filters import matches

IDS = st.sampled_from(["a", "b", "c", "d", "é", "a\0"])
TEXTS = st.sampled_from(["", "red", "red kettle", "blue cup", "blue", "!?", "kettle kettle red", "x\0y"])
METADATA = st.sampled_from([{}, {"n": 1}, {"n": 2, "m": None}])
DOCUMENTS = st.lists(st.tuples(IDS, TEXTS, METADATA), max_size=5)


class IndexAgainstDictionary(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name, "index.db")
        self.encoder = WordEncoder("words0")
        self.index = Index.open(self.path, model=self.encoder)
        self.expected: dict[str, tuple[str, dict[str, Any]]] = {}

    def teardown(self) -> None:
        assert self.index.verify().problems == ()
        self.index.close()
        self.folder.cleanup()

    def _records(self, documents: list[tuple[str, str, dict[str, Any]]]) -> list[dict[str, Any]]:
        return [{"id": name, "text": text, "metadata": metadata} for name, text, metadata in documents]

    @rule(documents=DOCUMENTS, as_list=st.booleans())
    def add(self, documents: list[tuple[str, str, dict[str, Any]]], as_list: bool) -> None:
        records = self._records(documents)
        report = self.index.add(records if as_list else iter(records), batch_size=2)
        assert report.added + report.updated + report.unchanged == len(documents)
        for name, text, metadata in documents:
            self.expected[name] = (text, metadata)

    @rule(documents=DOCUMENTS)
    def add_and_cancel(self, documents: list[tuple[str, str, dict[str, Any]]]) -> None:
        try:
            self.index.add(self._records(documents), progress=lambda done, total: False)
        except CancelledError:
            return
        raise AssertionError("it was not cancelled")

    @rule(names=st.lists(IDS, max_size=3))
    def delete(self, names: list[str]) -> None:
        there = {name for name in names if name in self.expected}
        assert self.index.delete(names) == len(there)
        for name in there:
            del self.expected[name]

    @rule(limit=st.sampled_from([1, 2]))
    def delete_where(self, limit: int) -> None:
        gone = {name for name, (_, metadata) in self.expected.items() if metadata.get("n", 0) > limit}
        assert self.index.delete_where(field("n") > limit) == len(gone)
        for name in gone:
            del self.expected[name]

    @rule(name=st.sampled_from(["n", "m"]), indexed=st.booleans())
    def index_field(self, name: str, indexed: bool) -> None:
        if indexed:
            self.index.index_field(name)
        else:
            self.index.unindex_field(name)

    @rule()
    def close_and_open(self) -> None:
        self.index.close()
        self.index = Index.open(self.path, model=self.encoder)

    @precondition(lambda self: len(self.encoder.encoded) > 5)
    @rule()
    def reencode(self) -> None:
        self.index.close()
        self.encoder = WordEncoder(f"words{int(self.encoder.name[5:]) + 1}")
        reencode(self.path, model=self.encoder)
        self.index = Index.open(self.path, model=self.encoder)

    @rule(query=st.sampled_from(["red", "kettle cup", "", "blue unknown"]), exact=st.booleans())
    def search(self, query: str, exact: bool) -> None:
        options: dict[str, Any] = {"exact": True} if exact else {"n_candidates": 50}
        hits = self.index.search(query, k=50, **options)
        vectors = self.encoder.encode_queries([query])[0]
        scores = {}
        for name, (text, _) in self.expected.items():
            rows = quantize(self.encoder.encode_queries([text])[0]).to_float()
            scores[name] = maxsim(vectors, rows)
        assert {hit.id for hit in hits} == set(scores)
        assert [hit.id for hit in sorted(hits, key=lambda hit: (-hit.score, hit.id))] == [hit.id for hit in hits]
        for hit in hits:
            assert (hit.text, hit.metadata) == self.expected[hit.id]
            assert np.isclose(hit.score, scores[hit.id], atol=1e-5)

    @rule()
    def verify(self) -> None:
        report = self.index.verify()
        assert report.problems == ()
        assert report.documents == len(self.expected)

    @invariant()
    def filters_select_what_they_say(self) -> None:
        for wanted in (field("n") == 1, field("n") >= 2, field("m").missing(), (field("m") == None) & {"n": 2}):  # noqa: E711
            expected = {name for name, (_, metadata) in self.expected.items() if matches(metadata, wanted)}
            assert set(self.index.ids(filter=wanted)) == expected

    @invariant()
    def holds_the_same_documents(self) -> None:
        assert set(self.index.ids()) == set(self.expected)
        assert len(self.index) == len(self.expected)
        for name, (text, metadata) in self.expected.items():
            document = self.index.get(name)
            assert document is not None
            assert (document.text, document.metadata) == (text, metadata)


TestIndexAgainstDictionary = IndexAgainstDictionary.TestCase
TestIndexAgainstDictionary.settings = settings(max_examples=12, stateful_step_count=25, deadline=None)
