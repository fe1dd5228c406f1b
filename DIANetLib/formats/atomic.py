# SPDX-License-Identifier: Apache-2.0
"""Files that appear under their name only when they are complete."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from DIANetLib.errors import OutputError


@contextlib.contextmanager
def atomic_file(path: Path, ending: str) -> Iterator[Path]:
    """Give a temporary path beside `path`, put it in its place on success, remove it on failure.

    Args:
        path: The file wanted in the end; one that exists is replaced.
        ending: Ending of the temporary name, as writers choose the format by it.

    Raises:
        OutputError: An OSError came up while writing or renaming.
    """
    temporary: Path | None = None
    try:
        try:
            handle, name = tempfile.mkstemp(prefix=".writing-", suffix=ending, dir=path.parent)
            os.close(handle)
            temporary = Path(name)
            yield temporary
            # mkstemp makes files that only their owner may read; a result should have the usual permissions.
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(0o666 & ~mask)
            os.replace(temporary, path)
        except OSError as error:
            raise OutputError(
                f"Cannot write {path}: {error.strerror or error}.",
                remedy="Check that the folder exists, that you may write to it and that the disk has space.",
            ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
