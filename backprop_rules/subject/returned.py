"""What forward returns: a tensor, or several in a structure, in which a backward gets their cotangents."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils import _pytree


@dataclass(frozen=True)
class Returned:
    """A structure of tensors, and which of its leaves are tensors."""

    structure: _pytree.TreeSpec
    tensors: tuple[bool, ...]

    @property
    def single(self) -> bool:
        """Whether it is one tensor by itself."""
        return self.structure.is_leaf()

    def of(self, each: Sequence[Any]) -> Any:
        """Return something of each tensor in the same structure, None in the place of what is no tensor.

        Of another number of tensors, as forward may return elsewhere, a tuple.
        """
        if len(each) != sum(self.tensors):
            return tuple(each)
        given = iter(each)
        return _tuples(_pytree.tree_unflatten([next(given) if made else None for made in self.tensors], self.structure))


def _tuples(found: Any) -> Any:
    if type(found) is dict:
        return {key: _tuples(value) for key, value in found.items()}
    return tuple(map(_tuples, found)) if type(found) in (list, tuple) else found


def returned(y: Any) -> Returned:
    """Return the structure of what forward returned."""
    leaves, structure = _pytree.tree_flatten(y)
    return Returned(structure, tuple(isinstance(leaf, Tensor) for leaf in leaves))


ONE = Returned(_pytree.tree_structure(0), (True,))


def code(made: Any) -> str:
    """Return a structure of code as code."""
    if isinstance(made, dict):
        return "{" + ", ".join(f"{key!r}: {code(value)}" for key, value in made.items()) + "}"
    if hasattr(made, "_fields"):
        return f"collections.namedtuple({type(made).__name__!r}, {list(made._fields)})({', '.join(map(code, made))})"
    if isinstance(made, tuple | list):
        return f"({', '.join(map(code, made))}{',' * (len(made) == 1)})"
    return str(made)
