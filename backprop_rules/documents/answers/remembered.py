"""What evidence came to, remembered for as long as nothing that it ran has changed."""

import hashlib
import json
import os
import platform
import sys
from contextlib import suppress
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch


def key() -> str:
    """Return a digest of all that evidence may run: this package, torch, Python, and the machine."""
    around = torch.__version__, sys.version, platform.machine(), torch.get_num_threads()
    digest = hashlib.sha256(repr(around).encode())
    root = Path(str(files("backprop_rules")))
    for path in sorted(p for kind in ("*.py", "*.toml") for p in root.rglob(kind)):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()[:24]


class Remembered:
    """A file of the user's cache, named by what was run; where it cannot be read or written, nothing is remembered."""

    @cached_property
    def path(self) -> Path:
        """Where it is: $XDG_CACHE_HOME/backprop-rules, or ~/.cache/backprop-rules."""
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        return Path(home) / "backprop-rules" / f"evidence-{key()}.json"

    @cached_property
    def found(self) -> dict[str, Any]:
        """What was found, by document and claim."""
        with suppress(OSError, ValueError):
            read = json.loads(self.path.read_text(encoding="utf-8"))
            return read if isinstance(read, dict) else {}
        return {}

    def write(self) -> None:
        """Write it down; a file that is half written is never read."""
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            new = self.path.with_suffix(f".{os.getpid()}")
            new.write_text(json.dumps(self.found, ensure_ascii=False), encoding="utf-8")
            new.replace(self.path)
