"""Which side of a search a text is on: encoders read them differently. The names are sentence-transformers'."""

from typing import Literal

Side = Literal["query", "document"]
QUERY: Side = "query"
PASSAGE: Side = "document"
