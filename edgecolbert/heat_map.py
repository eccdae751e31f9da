"""Explanations as one HTML page: what matched, and a heat map of all token pairs. No scripts, and nothing is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgecolbert.errors import InputError
from edgecolbert.highlighting import Snippet, html_text

if TYPE_CHECKING:
    from edgecolbert.explanation import Explanation, Token

SCHEMES = ("auto", "light", "dark")
_SHADES = 10
# Backgrounds of the least and of the strongest shade. The least contrast with the text's colour is 5.5 to 1.
_LIGHT = ((255, 255, 255), (255, 176, 64))
_DARK = ((22, 24, 29), (126, 74, 0))

_COLOURS = {
    "light": "--ink: #16181d; --paper: #fff; --soft: #5a6069; --line: #c9ced6;",
    "dark": "--ink: #f2f3f5; --paper: #16181d; --soft: #a9b0ba; --line: #434a55;",
}
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 3rem; overflow-wrap: anywhere; }
p.soft, caption { color: var(--soft); } caption { text-align: left; padding: .5rem 0; }
.passage { white-space: pre-wrap; overflow-wrap: anywhere; border-left: 3px solid var(--line); padding-left: 1rem; }
mark { color: inherit; border-radius: .2em; padding: 0 .1em; }
mark.match-1 { background: var(--h3); } mark.match-2 { background: var(--h6); } mark.match-3 { background: var(--h9); font-weight: bold; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border: 1px solid var(--line); padding: .15rem .4rem; text-align: left; font-weight: normal; }
td.n { text-align: right; }
.scroll { overflow: auto; max-height: 80vh; border: 1px solid var(--line); }
.heat { font-size: .75rem; line-height: 1.3; } .heat td { text-align: right; padding: .1rem .25rem; min-width: 2rem; }
.heat thead th { position: sticky; top: 0; background: var(--paper); writing-mode: vertical-rl; vertical-align: bottom; padding: .4rem .1rem; white-space: nowrap; }
.heat tbody th { position: sticky; left: 0; background: var(--paper); white-space: nowrap; max-width: 16rem; overflow: hidden; text-overflow: ellipsis; }
.heat td.won { outline: 2px solid var(--ink); outline-offset: -2px; font-weight: bold; }
.aside { font-style: italic; color: var(--soft); }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
"""  # noqa: E501 - a style sheet


def page(query: str, explanations: Sequence[Explanation], *, scheme: str = "auto") -> str:
    """An HTML page about some documents.

    Args:
        query: What was searched for.
        explanations: Why each of them matched, in the order to show them.
        scheme: "light", "dark", or "auto" for what the reader's system says.

    Returns:
        The page: for each document its text with highlights, a table of the query's tokens with what won, and a heat
        map with all pairs as numbers and shades.
    """
    return "\n".join(_page(query, explanations, style_sheet(scheme))) + "\n"


def style_sheet(scheme: str = "auto") -> str:
    """What the page's style element holds, the same for all documents; a policy can name its hash.

    Args:
        scheme: As in `page`.

    Returns:
        The style sheet.

    Raises:
        InputError: If there is no such scheme.
    """
    if scheme not in SCHEMES:
        raise InputError(f"scheme is {scheme!r}, expected one of {', '.join(map(repr, SCHEMES))}.")
    light = f"{_COLOURS['light']} {_shades(*_LIGHT)}"
    dark = f"{_COLOURS['dark']} {_shades(*_DARK)}"
    if scheme == "auto":
        colours = f"\n:root {{ color-scheme: light dark; {light} }}"
        colours += f"\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"
    else:
        colours = f"\n:root {{ color-scheme: {scheme}; {dark if scheme == 'dark' else light} }}"
    shades = "".join(f".heat td.h{number} {{ background: var(--h{number}); }}\n" for number in range(_SHADES))
    return colours + _STYLE + shades


def _page(query: str, explanations: Sequence[Explanation], style: str) -> Iterator[str]:
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    # Whatever a text might smuggle in: nothing is loaded or run.
    yield "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>Why it matched: {html_text(query)}</title>\n<style>{style}</style>\n</head>\n<body>\n<main>"
    yield f"<h1>Why it matched: {_words(query)}</h1>"
    yield (
        '<p class="soft">Every token of the query finds the token of the passage that is nearest to it. The sum of '
        "these scores is the score of the document.</p>"
    )
    if not explanations:
        yield "<p>No documents.</p>"
    for number, explanation in enumerate(explanations, start=1):
        yield from _document(number, explanation)
    yield "</main>\n</body>\n</html>"


def _document(number: int, explanation: Explanation) -> Iterator[str]:
    passage = explanation.passage
    yield f'<section aria-labelledby="document-{number}">'
    yield f'<h2 id="document-{number}">{number}. {_words(explanation.id)}, score {explanation.score:.4f}</h2>'
    if explanation.ranks:
        ranks = ", ".join(f"{stage} {rank}" for stage, rank in explanation.ranks.items())
        yield f"<p>Ranks: {html_text(ranks)}</p>"
    marked = explanation.highlights() if explanation.has_offsets else ()
    text = Snippet(passage.text, passage.start, passage.end, marked).html()
    yield f'<div class="passage" lang="" dir="auto">{text}</div>'
    yield from _matches(explanation)
    yield from _heat_map(number, explanation)
    yield "</section>"


def _matches(explanation: Explanation) -> Iterator[str]:
    total = sum(match.score for match in explanation.matches)
    yield "<details open><summary>What each query token found</summary>\n<table>"
    yield f"<caption>Scores of the query's tokens; their sum is {total:.4f}.</caption>"
    heads = ("Query token", "Score", "Found", "Characters of the text", "Stands for")
    yield "<thead><tr>" + "".join(f'<th scope="col">{head}</th>' for head in heads) + "</tr></thead>\n<tbody>"
    for match in explanation.matches:
        token = match.document
        found = "nothing" if token is None else _token(token)
        place = "" if token is None or token.start is None else f"{token.start} to {token.end}"
        group = ", ".join(_token(member) for member in match.group) if len(match.group) > 1 else "itself"
        yield (
            f'<tr><th scope="row">{_token(match.query)}</th><td class="n">{match.score:.3f}</td><td>{found}</td>'
            f"<td>{place}</td><td>{group if token else ''}</td></tr>"
        )
    yield "</tbody>\n</table>\n</details>"


def _heat_map(number: int, explanation: Explanation) -> Iterator[str]:
    similarities = explanation.similarities
    if not similarities.size:
        yield "<p>The passage has no stored tokens.</p>"
        return
    won = set(zip(range(len(similarities)), similarities.argmax(axis=1).tolist(), strict=True))
    shades = _shade_numbers(similarities)
    yield "<details open><summary>Heat map</summary>"
    # Focusable, so that the keyboard can scroll it.
    yield f'<div class="scroll" tabindex="0" role="region" aria-label="Heat map of document {number}">'
    yield '<table class="heat">\n<caption>Similarity in hundredths of each token of the passage (rows) with each token '
    yield "of the query (columns): the warmer, the nearer. A frame marks the nearest of a column.</caption>"
    yield '<thead><tr><th scope="col">Passage</th>'
    yield "".join(f'<th scope="col">{_token(match.query)}</th>' for match in explanation.matches)
    yield "</tr></thead>\n<tbody>"
    for row, group in enumerate(explanation.groups):
        cells = []
        for column in range(len(similarities)):
            shade, hundredths = shades[column][row], round(float(similarities[column, row]) * 100)
            if (column, row) in won:
                cells.append(f'<td class="h{shade} won">{hundredths}<span class="hidden">, nearest</span></td>')
            else:
                cells.append(f'<td class="h{shade}">{hundredths}</td>')
        yield f'<tr><th scope="row">{", ".join(_token(token) for token in group)}</th>{"".join(cells)}</tr>'
    yield "</tbody>\n</table>\n</div>\n</details>"


def _shade_numbers(similarities: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> list[list[int]]:
    """0 up to the median of all pairs, 9 for the nearest: models differ in how near any two tokens are."""
    least, most = float(np.median(similarities)), float(similarities.max())
    steps = (similarities - least) / (most - least if most > least else 1.0) * (_SHADES - 1)
    numbers: list[list[int]] = np.clip(np.rint(steps), 0, _SHADES - 1).astype(int).tolist()
    return numbers


def _token(token: Token) -> str:
    if token.text is None:
        return f'<span class="aside">token {token.number}</span>'
    if token.kind == "text":
        return _words(token.text)
    return f'<span class="aside">{_words(token.text)} ({html_text(token.kind)})</span>'


def _words(text: str) -> str:
    # Isolated, so that no mark for writing direction in it turns the page around.
    return f'<bdi lang="">{html_text(text)}</bdi>'


def _shades(least: tuple[int, int, int], most: tuple[int, int, int]) -> str:
    colours = []
    for number in range(_SHADES):
        share = number / (_SHADES - 1)
        mixed = (round(low + (high - low) * share) for low, high in zip(least, most, strict=True))
        colours.append(f"--h{number}: rgb({', '.join(map(str, mixed))});")
    return " ".join(colours)
