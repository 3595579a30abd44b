"""Where a run's files live: what cannot be written or reached is named."""

import errno
import os
from pathlib import Path

import pytest

from pipeline.errors import RayrieverError
from pipeline.workspace import Workspace, explained_write_errors


def test_write_errors_become_one_readable_message():
    for code, words in ((errno.ENOSPC, "disk is full"), (errno.EACCES, "cannot be written")):
        with pytest.raises(RayrieverError, match=words), explained_write_errors("here"):
            raise OSError(code, os.strerror(code))
    with pytest.raises(OSError), explained_write_errors("here"):  # any other stays as it is
        raise OSError(errno.ECONNREFUSED, "x")


def test_workspace_below_a_file_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RayrieverError, match="cannot be written"):
        Workspace(str(tmp_path / "file" / "workspace")).check_writable()


def test_unknown_uri_is_refused():
    with pytest.raises(RayrieverError, match="ftp://"):
        Workspace("ftp://somewhere/else")
