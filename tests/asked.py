"""Requests as tests make them."""

from collections.abc import Iterable

import pyarrow as pa

from pipeline.llm.requests import Messages, Request, Sampling, tables
from pipeline.records import LLM_REQUEST


def build(model: str, purpose: str, conversations: Iterable[Messages], sampling: Sampling) -> pa.Table:
    """LLM_REQUEST rows of one purpose and sampling, in one table."""
    requests = (Request(purpose, conversation, sampling) for conversation in conversations)
    return pa.concat_tables([LLM_REQUEST.empty_table(), *tables(model, requests)])
