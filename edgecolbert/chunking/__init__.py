"""Long texts to passages: character spans that fit the model, cut where a reader would cut them."""

# Not `documents`, nor what it needs: a search does without them.
from edgecolbert.chunking.text import Span, TokenCounter, split_text

__all__ = ["Span", "TokenCounter", "split_text"]
