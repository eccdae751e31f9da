"""The first stage: fixed random matrices, MUVERA against a literal port of its reference, and the fitted cells."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecolbert import FdeSettings, FirstStage, InputError, MuveraSettings
from edgecolbert.cell_lists import CellList, Segment, joined_list, merged_list, passage_scores, subspaces
from edgecolbert.cells import _GROUPED_FROM, Cells, fit_cells
from edgecolbert.largest import largest
from edgecolbert.muvera import Muvera
from edgecolbert.random_matrix import gaussian, signed_buckets

FloatArray = npt.NDArray[np.float32]


def _unit(rows: npt.NDArray[np.floating]) -> FloatArray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def _tokens(seed: int, n_tokens: int, dim: int = 16) -> FloatArray:
    return _unit(np.random.default_rng(seed).standard_normal((n_tokens, dim)))


# Random matrices. A changed byte here would make stored codes worthless, so the hashes never change.


@pytest.mark.parametrize(
    ("name", "seed", "shape", "digest"),
    [
        ("simhash", 42, (16, 4), "b2834febb077f7dad1c39dfd1c5e5769f222b037bea3a267f12d01eb28c645d7"),
        ("simhash", 0, (96, 5), "ba9eda6c24fee695290674fae85d921d5f3e02cb9007ee972e3fa3919c6d9403"),
        ("test", -3, (1, 1), "cc249ede98e480b772e4bc267cead63c04ad0fa775944fd25a70933bcbed40ee"),
        ("", 2**70, (7, 3), "a0f1bff823c717c5b43c5f71b13623b391eca37e69a8b7eda17f790c9b14e33e"),
    ],
)
def test_gaussian_matrices_are_the_same_bytes_everywhere(
    name: str, seed: int, shape: tuple[int, int], digest: str
) -> None:
    assert hashlib.sha256(gaussian(name, seed, shape).astype("<f4").tobytes()).hexdigest() == digest


@pytest.mark.parametrize(
    ("name", "seed", "size", "buckets", "digest"),
    [
        ("ams", 42, 96, 16, "8d795247d2862a4d4885fc2b154f7d267182cb440afd5856477a77b7d0d2e689"),
        ("count-sketch", 7, 1_000, 65_536, "0fa9f2f9e71109735b1e7437aef19fab00c646c0688bd6747438a7bf39f97b2b"),
    ],
)
def test_signed_buckets_are_the_same_bytes_everywhere(
    name: str, seed: int, size: int, buckets: int, digest: str
) -> None:
    numbers, signs = signed_buckets(name, seed, size, buckets)
    assert hashlib.sha256(numbers.astype("<i8").tobytes() + signs.astype("<f4").tobytes()).hexdigest() == digest


def test_gaussian_values_have_the_moments_of_a_normal_distribution() -> None:
    values = gaussian("moments", 1, (400, 500)).astype(np.float64).ravel()
    assert abs(values.mean()) < 0.01
    assert abs(values.var() - 1) < 0.01
    assert abs((values**3).mean()) < 0.03
    # A sum of twelve uniforms has a fourth moment of 2.9, the normal distribution 3.
    assert abs((values**4).mean() - 2.9) < 0.05


def test_other_names_and_seeds_give_independent_matrices() -> None:
    base = gaussian("a", 1, (100, 100)).ravel()
    for other in (gaussian("b", 1, (100, 100)), gaussian("a", 2, (100, 100))):
        assert abs(np.corrcoef(base, other.ravel())[0, 1]) < 0.03


def test_buckets_and_signs_are_spread_evenly() -> None:
    numbers, signs = signed_buckets("even", 3, 60_000, 6)
    assert set(numbers.tolist()) == set(range(6))
    assert np.abs(np.bincount(numbers) - 10_000).max() < 400
    assert set(signs.tolist()) == {-1.0, 1.0}
    assert abs(signs.mean()) < 0.02
    assert set(signed_buckets("one", 3, 100, 1)[0].tolist()) == {0}


# MUVERA, against a port of graph-mining/sketching/point_cloud/fixed_dimensional_encoding.cc as plain loops.


def _reference_fde(
    tokens: FloatArray, dim: int, settings: MuveraSettings, *, document: bool
) -> npt.NDArray[np.float64]:
    n_partitions = 2**settings.num_simhash_projections
    width = settings.projection_dimension or dim
    result: list[float] = []
    for repetition in range(settings.num_repetitions):
        hyperplanes = gaussian("simhash", settings.seed + repetition, (dim, settings.num_simhash_projections))
        sums = [[0.0] * width for _ in range(n_partitions)]
        sizes = [0] * n_partitions
        sketches, projected_tokens = [], []
        for token in tokens.astype(np.float64):
            sketch = [sum(token[i] * float(hyperplanes[i, j]) for i in range(dim)) for j in range(hyperplanes.shape[1])]
            if settings.projection_dimension is None:
                projected = [float(value) for value in token]
            else:
                buckets, signs = signed_buckets("ams", settings.seed + repetition, dim, width)
                projected = [0.0] * width
                for i in range(dim):
                    projected[buckets[i]] += float(signs[i]) * float(token[i])
            # SimHashPartitionIndex: AppendToGrayCode for each bit.
            index = 0
            for value in sketch:
                index = (index << 1) + (int(value > 0) ^ (index & 1))
            for i in range(width):
                sums[index][i] += projected[i]
            sizes[index] += 1
            sketches.append(sketch)
            projected_tokens.append(projected)
        if document and len(tokens):
            for index in range(n_partitions):
                if sizes[index]:
                    sums[index] = [value / sizes[index] for value in sums[index]]
                elif settings.fill_empty_partitions and settings.num_simhash_projections:
                    best, nearest = None, 0
                    for number, sketch in enumerate(sketches):
                        # DistanceToSimHashPartition: bits compared from the last to the first.
                        binary, distance = index ^ (index >> 1), 0
                        for value in reversed(sketch):
                            distance += int(value > 0) != (binary & 1)
                            binary >>= 1
                        if best is None or distance < best:
                            best, nearest = distance, number
                    sums[index] = projected_tokens[nearest]
        for block in sums:
            result += block
    if settings.final_projection_dimension is None:
        return np.array(result)
    buckets, signs = signed_buckets("count-sketch", settings.seed, len(result), settings.final_projection_dimension)
    final = [0.0] * settings.final_projection_dimension
    for i, value in enumerate(result):
        final[buckets[i]] += float(signs[i]) * value
    return np.array(final)


COMBINATIONS = [
    MuveraSettings(
        num_repetitions=repetitions,
        num_simhash_projections=projections,
        projection_dimension=inner,
        fill_empty_partitions=fill,
        final_projection_dimension=final,
        seed=seed,
    )
    for repetitions, projections, inner, fill, final, seed in itertools.product(
        [1, 3], [0, 1, 4], [None, 1, 5], [True, False], [None, 32], [42]
    )
]


@pytest.mark.parametrize("settings", COMBINATIONS, ids=str)
def test_muvera_equals_the_reference_loop(settings: MuveraSettings) -> None:
    encoding = Muvera(settings, 6)
    for n_tokens in (0, 1, 2, 9):
        tokens = _tokens(n_tokens, n_tokens, 6) if n_tokens else np.zeros((0, 6), dtype=np.float32)
        document, query = encoding.document_fde(tokens), encoding.query_fde(tokens)
        assert document.shape == query.shape == (encoding.size,)
        assert document.dtype == query.dtype == np.float32
        np.testing.assert_allclose(document, _reference_fde(tokens, 6, settings, document=True), atol=1e-5)
        np.testing.assert_allclose(query, _reference_fde(tokens, 6, settings, document=False), atol=1e-5)


@pytest.mark.parametrize("inner", [None, 16])
def test_muvera_of_a_long_document_equals_the_reference_loop(inner: int | None) -> None:
    # So long that repetitions are encoded in parts and the products of a part one by one.
    settings = MuveraSettings(num_repetitions=5, projection_dimension=inner)
    tokens = _unit(_tokens(6, 1_100, 6) + 0.5)
    encoding = Muvera(settings, 6)
    for document, found in ((True, encoding.document_fde(tokens)), (False, encoding.query_fde(tokens))):
        expected = _reference_fde(tokens, 6, settings, document=document)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_repetitions": 0}, "num_repetitions is 0, expected 1 to 1000"),
        ({"num_simhash_projections": -1}, "num_simhash_projections is -1, expected 0 to 16"),
        ({"num_simhash_projections": 17}, "num_simhash_projections is 17, expected 0 to 16"),
        ({"projection_dimension": 0}, "projection_dimension is 0, expected 1 to 65536"),
        ({"final_projection_dimension": 65_537}, "final_projection_dimension is 65537, expected 1 to 65536"),
    ],
)
def test_parameters_out_of_range_are_named(options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MuveraSettings(**options)  # type: ignore[arg-type]


# Properties of the encodings.


@given(seed=st.integers(0, 1_000), n_tokens=st.integers(0, 10), cut=st.integers(0, 10))
def test_muvera_query_encodings_add_up_and_ignore_the_order_of_tokens(seed: int, n_tokens: int, cut: int) -> None:
    tokens = _tokens(seed, n_tokens)
    shuffled = np.random.default_rng(seed).permutation(tokens)
    for final in (None, 64):
        encoding = Muvera(MuveraSettings(num_repetitions=3, final_projection_dimension=final), 16)
        whole = encoding.query_fde(tokens)
        np.testing.assert_allclose(
            whole, encoding.query_fde(tokens[:cut]) + encoding.query_fde(tokens[cut:]), atol=1e-4
        )
        np.testing.assert_allclose(whole, encoding.query_fde(shuffled), atol=1e-4)


def test_a_document_without_tokens_is_zero() -> None:
    empty = np.zeros((0, 16), dtype=np.float32)
    assert not Muvera(MuveraSettings(num_repetitions=3), 16).document_fde(empty).any()
    assert not Muvera(MuveraSettings(num_repetitions=3), 16).query_fde(empty).any()


def test_fitting_is_deterministic_by_seed() -> None:
    tokens = _tokens(2, 2_000)
    assert np.array_equal(fit_cells(tokens, 20), fit_cells(tokens, 20))
    assert not np.array_equal(fit_cells(tokens, 20, seed=1), fit_cells(tokens, 20, seed=2))


def test_fitted_cells_are_fewer_where_there_are_fewer_tokens() -> None:
    assert fit_cells(_tokens(3, 5), 20).shape == (5, 16)
    repeated = np.repeat(_tokens(3, 2), 10, axis=0)
    assert len(fit_cells(repeated, 20)) == 2
    assert np.isfinite(fit_cells(np.zeros((4, 16), dtype=np.float32), 3)).all()


def test_frequent_cells_come_first() -> None:
    centres = _unit(np.eye(4, 16))
    tokens = np.repeat(centres, [5, 40, 10, 20], axis=0) + 0.01 * _tokens(1, 75)
    cells = fit_cells(_unit(tokens), 4, start=centres, iterations=3)
    assert (cells @ centres.T).argmax(axis=1).tolist() == [1, 3, 2, 0]


@pytest.mark.parametrize(("n_tokens", "num_cells"), [(0, 4), (5, 0)])
def test_cells_need_tokens_and_a_number(n_tokens: int, num_cells: int) -> None:
    with pytest.raises(InputError, match=f"num_cells is {num_cells}, and there are {n_tokens} tokens"):
        fit_cells(np.zeros((n_tokens, 16), dtype=np.float32), num_cells)


def test_with_many_cells_nearly_every_token_gets_its_nearest_and_always_the_same() -> None:
    # Clustered as token embeddings are: on noise without structure no shortcut can work.
    generator = np.random.default_rng(8)
    topics = generator.standard_normal((60, 24))
    tokens = _unit(topics[generator.integers(0, 60, 9_000)] + 0.6 * generator.standard_normal((9_000, 24)))
    cells = Cells(fit_cells(tokens, 1_200, iterations=3))
    found = cells.nearest(tokens)
    nearness = tokens @ cells.centres.T
    assert (found == nearness.argmax(axis=1)).mean() > 0.9
    lost = nearness.max(axis=1) - nearness[np.arange(len(tokens)), found]
    assert lost.max() < 0.3
    assert lost.mean() < 0.005
    assert np.array_equal(found[100:110], cells.nearest(tokens[100:110]))


def _documents(seed: int, n_documents: int, dim: int = 16) -> list[FloatArray]:
    generator = np.random.default_rng(seed)
    return [
        _unit(generator.standard_normal((n, dim))).astype(np.float32) for n in generator.integers(0, 30, n_documents)
    ]


@pytest.mark.parametrize("settings", [FdeSettings(num_cells=12), FdeSettings(num_cells=12, centre=True)], ids=str)
def test_an_entry_is_near_the_mean_of_the_tokens_of_its_cell(settings: FdeSettings) -> None:
    documents = _documents(4, 60)
    stage = FirstStage.fit(settings, documents)
    encoding = stage.lists
    entries = encoding.decode(stage.document_codes(documents))
    cosines = []
    for passage, cell, code in zip(entries.passages, entries.cells, entries.codes, strict=True):
        tokens = stage.prepared(documents[passage])
        inside = tokens[(tokens @ encoding.cells.T).argmax(axis=1) == cell]
        assert len(inside)
        mean = _unit(inside.sum(axis=0, keepdims=True))[0]
        words = [
            encoding.codebooks[word, start:end]
            for word, (start, end) in zip(code, subspaces(stage.dim, encoding.num_subspaces), strict=True)
        ]
        cosines.append(float(_unit((encoding.cells[cell] + np.concatenate(words))[None])[0] @ mean))
    assert min(cosines) > 0.7
    assert np.mean(cosines) > 0.95
    counts = [len(set((stage.prepared(rows) @ encoding.cells.T).argmax(axis=1).tolist())) for rows in documents]
    assert np.bincount(entries.passages, minlength=60).tolist() == counts


def test_a_code_does_not_depend_on_the_documents_encoded_with_it() -> None:
    documents = _documents(5, 40)
    stage = FirstStage.fit(FdeSettings(num_cells=30), documents)
    together = stage.document_codes(documents)
    assert together == [stage.document_codes([document])[0] for document in documents]


def test_a_long_code_keeps_the_entries_of_the_rarest_cells() -> None:
    documents = _documents(6, 40)
    stage = FirstStage.fit(FdeSettings(num_cells=30), documents)
    capped = FirstStage(FdeSettings(num_cells=30, max_entries=5), 16, stage.cells, stage.codebooks)
    whole, cut = (each.lists.decode(each.document_codes(documents)) for each in (stage, capped))
    for number in range(40):
        cells = whole.cells[whole.passages == number].tolist()
        assert cells == sorted(cells)
        assert cut.cells[cut.passages == number].tolist() == cells[-5:]
    assert max(map(len, capped.document_codes(documents))) <= 5 * 8


@given(seed=st.integers(0, 1_000), n_query=st.integers(0, 40))
def test_passage_scores_are_those_of_a_loop(seed: int, n_query: int) -> None:
    documents, query = _documents(seed, 15), _tokens(seed + 1, n_query)
    encoding = _STAGE.lists
    codes = encoding.encode(documents)
    segment = Segment(encoding.decode(codes), len(encoding.cells))
    plan = encoding.plan(query)
    expected = np.zeros(len(documents))
    for token, cells, scores, floor in zip(query, plan.cells, plan.scores, plan.floors, strict=True):
        for number, code in enumerate(codes):
            best = float(floor)
            entries = encoding.decode([code])
            for cell, words in zip(entries.cells, entries.codes, strict=True):
                if cell in cells:
                    value = float(scores[cells.tolist().index(cell)])
                    for word, (start, end) in zip(words, subspaces(16, 6), strict=True):
                        value += float(token[start:end] @ encoding.codebooks[word, start:end])
                    best = max(best, value)
            expected[number] += best
    np.testing.assert_allclose(passage_scores(len(documents), plan, [segment.list_of]), expected, atol=1e-4)


_STAGE = FirstStage.fit(FdeSettings(num_cells=40), _documents(7, 60))


def test_lists_survive_bytes_and_merging() -> None:
    encoding = _STAGE.lists
    first, second = _documents(8, 20), _documents(9, 12)
    parts = [Segment(encoding.decode(encoding.encode(documents)), 40) for documents in (first, second)]
    # Passage 3 of the first was deleted.
    numbers = [np.array([*range(3), -1, *range(3, 19)]), np.arange(19, 31)]
    whole = Segment(encoding.decode(encoding.encode([*first[:3], *first[4:], *second])), 40)
    for cell in range(40):
        merged = (
            merged_list(
                (CellList.from_bytes(found.to_bytes(), 6), renumbered)
                for part, renumbered in zip(parts, numbers, strict=True)
                if (found := part.list_of(cell)) is not None
            )
            if any(part.list_of(cell) for part in parts)
            else None
        )
        expected = whole.list_of(cell)
        if expected is None:
            assert merged is None or not len(merged.passages)
        else:
            assert merged is not None
            assert merged.to_bytes() == expected.to_bytes()


def test_segments_that_are_joined_score_as_one() -> None:
    encoding = _STAGE.lists
    parts = [_documents(seed, 15) for seed in (10, 11, 12)]
    together = [document for part in parts for document in part]
    first, second = (Segment(encoding.decode(encoding.encode(part)), 40) for part in parts[:2])
    joined = {
        cell: joined_list(
            [
                (start, found.to_bytes())
                for start, part in ((0, first), (15, second))
                if (found := part.list_of(cell)) is not None
            ],
            6,
        )
        for cell in range(40)
    }
    tail = Segment(encoding.decode(encoding.encode(parts[2])), 40, first=30)
    whole = Segment(encoding.decode(encoding.encode(together)), 40)
    plan = encoding.plan(_tokens(13, 20))
    np.testing.assert_array_equal(
        passage_scores(45, plan, [joined.__getitem__, tail.list_of]), passage_scores(45, plan, [whole.list_of])
    )


@given(
    seed=st.integers(0, 1_000),
    n_rows=st.integers(0, 4),
    n_columns=st.integers(1, 400),
    count=st.integers(0, 400),
    n_different=st.sampled_from([1, 5, 10_000]),
)
def test_the_largest_values_are_those_of_a_stable_sort(
    seed: int, n_rows: int, n_columns: int, count: int, n_different: int
) -> None:
    values = np.random.default_rng(seed).integers(0, n_different, (n_rows, n_columns)).astype(np.float32)
    count = min(count, n_columns)
    np.testing.assert_array_equal(largest(values, count), np.argsort(-values, axis=1, kind="stable")[:, :count])


def test_a_first_stage_survives_packing() -> None:
    documents = _documents(10, 30)
    for stage in (_STAGE, FirstStage.fit(FdeSettings(num_cells=9, centre=True), documents)):
        again = FirstStage.unpack(stage.settings, stage.dim, stage.pack())
        assert again.document_codes(documents) == stage.document_codes(documents)


def test_fitting_from_cells_that_are_nearly_right_gives_as_many() -> None:
    again = FirstStage.fit(FdeSettings(num_cells=40), _documents(12, 80), start=_STAGE)
    assert again.cells is not None
    assert again.cells.shape == (40, 16)
    assert not np.array_equal(again.cells, _STAGE.cells)


STAGES = [
    FdeSettings(num_cells=12, centre=False),
    FdeSettings(num_cells=12, centre=True),
    FdeSettings(kind="muvera", muvera=MuveraSettings(num_repetitions=4)),
]


@pytest.mark.parametrize("centre", [False, True])
def test_muvera_codes_are_within_one_step_of_the_encoding(centre: bool) -> None:
    settings = FdeSettings(kind="muvera", centre=centre, muvera=MuveraSettings(num_repetitions=4))
    stage = FirstStage.fit(settings, [_tokens(4, 600)])
    reference = Muvera(settings.muvera, 16)
    for n_tokens in (0, 1, 7, 40):
        tokens = _tokens(n_tokens, n_tokens)
        prepared = tokens if stage.mean is None else _unit(tokens - stage.mean)
        document = np.frombuffer(stage.document_codes([tokens])[0], dtype=np.int8)
        for code, encoding, limit in (
            (document, reference.document_fde(prepared), stage._muvera_limit),
            (stage.muvera_query(tokens), reference.query_fde(prepared), None),
        ):
            assert code.shape == (stage.muvera_bytes,)
            step = (limit or float(np.abs(encoding).max(initial=0.0)) or 1.0) / 127
            assert np.abs(code - np.clip(encoding / step, -127, 127)).max(initial=0.0) <= 1


def test_settings_survive_json() -> None:
    for settings in [*STAGES, FdeSettings(), FdeSettings(kind="muvera", muvera=COMBINATIONS[-1])]:
        assert FdeSettings.from_json(settings.to_json()) == settings


def test_settings_of_other_random_matrices_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"FDE settings are of 'edgecolbert-random-0', this version .* has 'edgecolbert-r"
    ):
        FdeSettings.from_json(FdeSettings().to_json().replace("random-1", "random-0"))
    with pytest.raises(InputError, match="FDE kind is 'cell', expected 'cells' or 'muvera'"):
        FdeSettings(kind="cell")
    with pytest.raises(InputError, match="num_cells is 0, expected 1 to 65536"):
        FdeSettings(num_cells=0)


def test_arrays_must_fit_the_settings() -> None:
    cells, codebooks = np.eye(4, dtype=np.float32), np.zeros((256, 4), dtype=np.float32)
    with pytest.raises(InputError, match="A fitted first stage needs cells and codebooks, and MUVERA's has none"):
        FirstStage(FdeSettings(), 4, cells)
    with pytest.raises(InputError, match="A fitted first stage needs cells and codebooks, and MUVERA's has none"):
        FirstStage(FdeSettings(kind="muvera"), 4, cells, codebooks)
    with pytest.raises(InputError, match=r"The cells have shape \(4, 4\), expected \[num_cells, 5\]"):
        FirstStage(FdeSettings(), 5, cells, codebooks)
    with pytest.raises(InputError, match=r"The codebooks have shape \(255, 4\), expected \[256, 4\]"):
        FirstStage(FdeSettings(), 4, cells, codebooks[1:])
    with pytest.raises(InputError, match=r"The mean token has shape \(3,\), expected \[4\]"):
        FirstStage(FdeSettings(), 4, cells, codebooks, np.zeros(3, dtype=np.float32))
    with pytest.raises(InputError, match="without tokens"):
        FirstStage.fit(FdeSettings(), [np.empty((0, 4), dtype=np.float32)])


# Quality on clustered data, with and without a direction that all token embeddings share.


def _collection(common: float) -> tuple[list[FloatArray], list[FloatArray]]:
    generator = np.random.default_rng(11)
    topics = generator.standard_normal((150, 32))
    shared = common * np.sqrt(32) * _unit(generator.standard_normal((1, 32)))

    def draw(chosen: npt.NDArray[np.intp], noise: float) -> FloatArray:
        return _unit(topics[chosen] + noise * generator.standard_normal((len(chosen), 32)) + shared)

    documents, queries = [], []
    for n in range(700):
        words = generator.choice(150, generator.integers(8, 40))
        documents.append(draw(words, 0.5))
        if n < 60:
            queries.append(draw(generator.choice(words, 6), 0.5))
    return documents, queries


def _recall(documents: list[FloatArray], queries: list[FloatArray]) -> float:
    stage = FirstStage.fit(FdeSettings(num_cells=400), documents)
    segment = Segment(stage.lists.decode(stage.document_codes(documents)), len(stage.lists.cells))
    found = 0
    for query in queries:
        exact = np.argsort([-float((query @ tokens.T).max(axis=1).sum()) for tokens in documents])[:10]
        scores = passage_scores(len(documents), stage.lists.plan(stage.prepared(query)), [segment.list_of])
        candidates = np.argsort(-scores, kind="stable")[:100]
        found += len(set(exact.tolist()) & set(candidates.tolist()))
    return found / (10 * len(queries))


def test_a_direction_that_all_tokens_share_does_not_cost_recall() -> None:
    plain = _recall(*_collection(0.0))
    pushed = _recall(*_collection(4.0))
    assert plain > 0.98
    assert pushed > plain - 0.02


def test_many_cells_of_a_few_different_tokens_are_still_found() -> None:
    # More cells than are looked at one by one, and fewer groups of them than a token is compared with.
    centres = np.repeat(np.eye(3, 8, dtype=np.float32), 400, axis=0)
    tokens = np.eye(3, 8, dtype=np.float32)[[2, 0, 1]]
    cells = Cells(centres)
    assert len(cells) >= _GROUPED_FROM
    assert np.array_equal(centres[cells.nearest(tokens)], tokens)
    fitted = fit_cells(np.repeat(tokens, 5_000, axis=0), 1_200)
    assert np.allclose(np.abs(fitted[Cells(fitted).nearest(tokens)] @ tokens.T).max(axis=1), 1)
