"""Arrow schemas of every artifact that one stage writes and another reads."""

from __future__ import annotations

import pyarrow as pa


def _schema(*fields: tuple[str, pa.DataType] | tuple[str, pa.DataType, bool]) -> pa.Schema:
    """Fields are non-nullable unless their third element is True."""
    return pa.schema([pa.field(f[0], f[1], nullable=len(f) == 3) for f in fields])


PASSAGE = _schema(
    ("passage_id", pa.string()),
    ("title", pa.string()),
    ("text", pa.string()),
    ("source", pa.string()),  # file the passage was read from
    ("start", pa.int64(), True),  # character offsets in that file's text, for chunks of longer documents
    ("end", pa.int64(), True),
)

QUARANTINE = _schema(
    ("source", pa.string()),
    ("line", pa.int64(), True),  # 1-based line of a text file, 1-based row of a table
    ("row_id", pa.string(), True),
    ("reason", pa.string()),
)

DUPLICATE = _schema(
    ("passage_id", pa.string()),
    ("duplicate_of", pa.string()),  # the first passage of the group in corpus order
    ("similarity", pa.float64()),  # Jaccard of word shingles; 1.0 is an exact duplicate after normalisation
)

QUERY = _schema(
    ("query_id", pa.string()),
    ("text", pa.string()),
    ("split", pa.string()),  # train | dev | test
    ("kind", pa.string()),  # given | crop | question | keywords | claim
)

JUDGMENT = _schema(
    ("query_id", pa.string()),
    ("passage_id", pa.string()),
    ("grade", pa.int64()),  # 0 is judged irrelevant
)

LLM_REQUEST = _schema(
    ("request_id", pa.string()),  # content address, see pipeline.llm.requests
    ("purpose", pa.string()),  # what the answer is for: question, decomposition, positive, ...
    ("messages", pa.string()),  # JSON list of {role, content}
    ("sampling", pa.string()),  # JSON object: temperature, max_tokens, ...
)

LLM_RESPONSE = _schema(
    ("request_id", pa.string()),
    ("text", pa.string()),
    ("finish_reason", pa.string()),  # stop | length | content_filter | error
    ("tokens_in", pa.int64()),
    ("tokens_out", pa.int64()),
    ("attempts", pa.int64()),  # requests put on the wire for this answer
    ("error", pa.string(), True),
    ("tokens_cached", pa.int64()),  # of tokens_in, that the server had in its cache
)

SYNTHESIS = _schema(
    ("query_id", pa.string()),
    ("decomposition", pa.string(), True),  # q_cot of Kim & Baek 2025, section 2.2
    ("positive", pa.string(), True),  # p+
    ("negative", pa.string(), True),  # p-
    ("verdict", pa.string()),  # yes | no | unparseable | error | absent | unverified
    ("outcome", pa.string()),  # kept | relabelled | dropped: what became of p+
)

NEGATIVE = _schema(
    ("query_id", pa.string()),
    ("passage_id", pa.string()),
    ("rank", pa.int64()),  # from 1, among the base encoder's hits
    ("score", pa.float64()),
)

TAUGHT = _schema(
    ("query_id", pa.string()),  # of a train query, or of the one whose document the sentence is from
    ("kind", pa.string()),  # query | decomposition | positive
    ("text", pa.string()),
    ("passage_ids", pa.list_(pa.string())),  # best first
    ("scores", pa.list_(pa.float64())),  # the teacher's
)

COMPARISON = _schema(
    ("query_id", pa.string()),
    ("first_id", pa.string()),  # passages in the order in which they were shown
    ("second_id", pa.string()),
    ("answer", pa.string(), True),  # the LLM's own words; none where a label or a recorded ranking decided
    ("model", pa.string(), True),
    ("outcome", pa.string()),  # first | second | none | unparseable | error | label_first | label_second
)

PREFERENCE = _schema(
    ("query_id", pa.string()),
    ("better_id", pa.string()),
    ("worse_id", pa.string()),
)

ORDER = _schema(
    ("query_id", pa.string()),
    ("passage_ids", pa.list_(pa.string())),  # best first
    ("grades", pa.list_(pa.float64())),  # of each passage: recorded, or the strength fitted to its comparisons
)

CANDIDATE = _schema(  # a passage of a query that the teacher is to rank
    ("query_id", pa.string()),
    ("passage_id", pa.string()),
    ("rank", pa.int64()),  # from 1, in the merged list
    ("score", pa.float64()),  # of the merged list
    ("sources", pa.list_(pa.string())),  # who found it, and with which rank and score
    ("ranks", pa.list_(pa.int64())),
    ("scores", pa.list_(pa.float64())),
)

PERMUTATION = _schema(  # one answer about one window of a list, or one whole ranking that was recorded
    ("query_id", pa.string()),
    ("number", pa.int64()),  # of the pass over the list, from 0
    ("window", pa.int64()),  # of the window in its pass, from 0
    ("shown", pa.list_(pa.string())),  # passages in the order shown
    ("ranked", pa.list_(pa.string())),  # best first; empty where the answer was no ranking
    ("answer", pa.string(), True),  # the LLM's own words; none where the ranking was recorded
    ("outcome", pa.string()),  # ok | repaired | repetition | missing | foreign | wrong_format | error | recorded
)

RANKED_LIST = _schema(  # what all passes over a list come to
    ("query_id", pa.string()),
    ("query", pa.string()),
    ("kind", pa.string()),  # of the query; who ranked: listwise | setwise | fusion | recorded
    ("teacher", pa.string()),
    ("passage_ids", pa.list_(pa.string())),  # [n] best first
    ("scores", pa.list_(pa.float64())),  # [n] Borda share in [0, 1], or the recorded grade
    # [n (n - 1) / 2] for i < j, row by row: how surely passage i is above j, from -1 to 1; 0 is unknown
    ("confidence", pa.list_(pa.float32())),
)

RERANKING_EXAMPLE = _schema(
    ("query_id", pa.string()),
    ("query", pa.string()),
    ("passage_ids", pa.list_(pa.string())),  # as in RANKED_LIST
    ("passages", pa.list_(pa.string())),  # texts of these
    ("scores", pa.list_(pa.float64())),
    ("confidence", pa.list_(pa.float32())),
)

TRAINING_EXAMPLE = _schema(
    ("query_id", pa.string()),
    ("query", pa.string()),
    ("labelled_ids", pa.list_(pa.string())),  # a duplicate goes by the id of the first of its group
    ("labelled", pa.list_(pa.string())),  # texts of the labelled passages, in the order of their ids
    ("positives", pa.list_(pa.string())),  # synthetic texts that attract
    ("negatives", pa.list_(pa.string())),  # synthetic texts that repel, a relabelled p+ among them
    ("mined_ids", pa.list_(pa.string())),  # passages mined as hard negatives
    ("mined", pa.list_(pa.string())),
    ("candidate_ids", pa.list_(pa.string())),  # passages that preferences or grades speak of
    ("candidates", pa.list_(pa.string())),
    ("grades", pa.list_(pa.float64())),  # of each candidate, higher is better; empty where only orders are known
    ("orders", pa.list_(pa.list_(pa.int32()))),  # places among the candidates, best first; a pair is one of two
    ("weight", pa.float64()),  # of the row in the mean loss of its batch
)

DATASET = _schema(  # rows of TRAINING_EXAMPLE that may share a batch
    ("start", pa.int64()),
    ("rows", pa.int64()),
    ("weight", pa.float64()),  # visits of each row per epoch
)

HIT = _schema(
    ("system", pa.string()),
    ("query_id", pa.string()),
    ("passage_id", pa.string()),
    ("rank", pa.int64()),  # from 1
    ("score", pa.float64()),
)

PER_QUERY = _schema(
    ("system", pa.string()),
    ("query_id", pa.string()),
    ("ndcg_at_10", pa.float64()),
    ("rr_at_10", pa.float64()),
    ("recall_at_100", pa.float64()),
)


def vector_schema(dimension: int) -> pa.Schema:
    """Passage vectors: `vector` is `[dimension]` float32, L2-normalised."""
    return _schema(("passage_id", pa.string()), ("vector", pa.list_(pa.float32(), dimension)))


def full_text(title: str, text: str) -> str:
    """What retrievers read of a passage: title and text, as BEIR joins them."""
    return f"{title} {text}".strip()
