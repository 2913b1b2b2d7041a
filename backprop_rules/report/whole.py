"""Files that are written whole or not at all."""

import os
from pathlib import Path


def write_whole(path: Path, what: str | bytes) -> None:
    """Write a text or bytes to a file, which keeps what was in it if that fails half-way."""
    path, written = path.resolve(), what.encode("utf-8") if isinstance(what, str) else what
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        path.write_bytes(written)  # to a device, which no file is to replace
        return
    beside = path.with_name(f"{path.name}.unfinished")
    beside.write_bytes(written)
    os.replace(beside, path)
