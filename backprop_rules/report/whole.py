"""Files that are written whole or not at all."""

import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a text to a file, which keeps what was in it if that fails half-way."""
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")  # to a device, which no file is to replace
        return
    beside = path.with_name(f"{path.name}.unfinished")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)
