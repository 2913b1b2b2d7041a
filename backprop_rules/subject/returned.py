"""What forward returns: a tensor, or several in a structure, in which a backward gets their cotangents."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree
from torch.utils._python_dispatch import _disable_current_modes

from backprop_rules.subject.ambient import inexact, running


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


def by_keys(found: Any, like: Any) -> Any:
    """Return outputs with those of dicts in the order of what is `like` them."""
    if isinstance(found, dict) and isinstance(like, dict) and found.keys() == like.keys():
        return {key: by_keys(found[key], like[key]) for key in like}
    if isinstance(found, list | tuple) and isinstance(like, list | tuple) and len(found) == len(like):
        return [by_keys(*both) for both in zip(found, like, strict=True)]
    return found


def in_a_row(ys: Iterable[Any]) -> Any:
    """Return all numbers of some outputs in one row, in the dtype that holds them."""
    return torch.cat([y.reshape(-1) for y in ys if inexact(y)])


def out_of_a_row(row: Tensor, ys: Sequence[Any]) -> list[Any]:
    """Return the numbers of a row in tensors as these outputs are, and of the others `ys` themselves."""
    parts = iter(row.split([y.numel() for y in ys if inexact(y)]))

    def like(y: Tensor) -> Tensor:
        part: Tensor = next(parts)
        part = part.real if part.is_complex() and not y.is_complex() else part
        return part.to(y.dtype, copy=True).reshape(y.shape)

    return [like(y) if inexact(y) else y for y in ys]


@dataclass(frozen=True, eq=False)
class Joined:
    """A function of several outputs as one of one output, with their numbers in a row."""

    function: Callable[..., Any]
    own: Returned

    def __call__(self, *primals: Any, **params: Any) -> Any:
        """Return the row: of a definition one of NumPy's arrays, in forward's order."""
        found, like = self.function(*primals, **params), self.own.of(range(sum(self.own.tensors)))
        if not any(isinstance(x, np.ndarray) for x in primals):
            return in_a_row(_pytree.tree_leaves(found))
        pairs = zip_longest(*map(_pytree.tree_leaves, (by_keys(found, like), like)), fillvalue=0)
        ys = [y for y, place in pairs if y is not None and place is not None]
        return np.concatenate([[], *(np.ravel(y) for y in ys if np.asarray(y).dtype.kind not in "biu")])

    def apart(self, rows: Sequence[Tensor], primals: Sequence[Any], params: Any) -> list[Any]:
        """Return the cotangents and the outputs, of which there are `rows`, as a backward gets them.

        How long each is, and what is no number, another call of the function tells, of which nothing is recorded.
        """
        with torch.no_grad(), running(None), _disable_current_modes():
            ys = [y for y in _pytree.tree_leaves(self.function(*primals, **params)) if isinstance(y, Tensor)]
        grads, outs = (out_of_a_row(row, ys) for row in rows)
        return [self.own.of([g if inexact(y) else None for g, y in zip(grads, ys, strict=True)]), self.own.of(outs)]


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
