"""Hold public libraries' backwards against torch: which are right, what is called wrong, what gets no answer.

python tests/public_code.py autograd jax mygrad pytensor tinygrad --write docs/public_code.md
"""

import argparse
import importlib.metadata
import json
import os
import signal
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from public_functions import FUNCTIONS, Shared

from backprop_rules import InputError, check

SECONDS = 120  # for one backward


class NotThere(Exception):
    """The library has no such function, or no derivative of it."""


def several(*modules: Any) -> Any:
    """Return a namespace in which a name is looked up in one module after the other."""

    class Names:
        linalg = getattr(modules[0], "linalg", None)

        def __getattr__(self, name: str) -> Any:
            for module in modules:
                if hasattr(module, name):
                    return getattr(module, name)
            raise NotThere(name)

    return Names()


# ------------------------------------------------------------------ how each library is asked for its gradients
Vjp = Callable[[Callable[..., Any], tuple[np.ndarray, ...], np.ndarray], list[Any]]


def of_autograd() -> tuple[Any, Vjp]:
    import autograd
    import autograd.numpy as anp
    from autograd.scipy import special

    def vjp(f: Any, xs: Any, g: Any) -> list[Any]:
        return [autograd.make_vjp(f, k)(*xs)[0](g) for k in range(len(xs))]

    return several(anp, special), vjp


def of_jax() -> tuple[Any, Vjp]:
    import jax
    import jax.numpy as jnp
    from jax.scipy import special

    return several(jnp, jax.nn, special, jax.lax), lambda f, xs, g: list(jax.vjp(f, *xs)[1](g))


def of_mygrad() -> tuple[Any, Vjp]:
    import mygrad
    from mygrad.nnet import activations

    def vjp(f: Any, xs: Any, g: Any) -> list[Any]:
        own = [mygrad.tensor(np.array(x)) for x in xs]
        y = f(*own)
        y.backward(g)
        return [np.zeros_like(x) if t.grad is None else t.grad for t, x in zip(own, xs, strict=True)]

    return several(mygrad, activations), vjp


def of_pytensor() -> tuple[Any, Vjp]:
    import pytensor
    import pytensor.tensor as pt

    compiled: dict[Any, Any] = {}
    mode, alone = pytensor.compile.Mode("py", "fast_run"), threading.Lock()  # its functions are not made for threads

    def vjp(f: Any, xs: Any, g: Any) -> list[Any]:
        key = f, tuple((x.ndim, x.dtype) for x in xs), np.ndim(g), np.asarray(g).dtype
        if key not in compiled:
            own = [pt.tensor(dtype=str(x.dtype), shape=(None,) * x.ndim) for x in xs]
            along = pt.tensor(dtype=str(np.asarray(g).dtype), shape=(None,) * np.ndim(g))
            found = pytensor.gradient.Lop(f(*own), own, along, disconnected_inputs="ignore")
            compiled[key] = pytensor.function([*own, along], found, mode=mode, on_unused_input="ignore")
        with alone:
            return compiled[key](*xs, g)

    return several(pt, pt.special if hasattr(pt, "special") else pt), vjp


def of_micrograd() -> tuple[Any, Vjp]:
    from micrograd.engine import Value

    sys.setrecursionlimit(100_000)  # it walks its graph by recursion, and a sum is as deep as it is long
    values = np.vectorize(lambda x: Value(float(x)), otypes=[object])
    gradients = np.vectorize(lambda v: v.grad, otypes=[float])
    more = SimpleNamespace(relu=np.vectorize(lambda v: v.relu(), otypes=[object]))

    def vjp(f: Any, xs: Any, g: Any) -> list[Any]:
        own = [values(x) for x in xs]
        total = (f(*own) * g).sum()  # NumPy adds and multiplies arrays of objects by their own operators
        if isinstance(total, Value):
            total.backward()
        return [gradients(o).astype(x.dtype) for o, x in zip(own, xs, strict=True)]

    return several(more, np), vjp


def of_tinygrad() -> tuple[Any, Vjp]:
    from tinygrad import Tensor

    names = {"negative": "neg", "absolute": "abs", "arcsin": "asin", "arccos": "acos", "arctan": "atan",
             "arcsinh": "asinh", "arccosh": "acosh", "arctanh": "atanh", "subtract": "sub", "multiply": "mul",
             "divide": "div", "power": "pow", "expit": "sigmoid", "clip": "clip", "ravel": "flatten"}  # fmt: skip

    def looked_up(name: str) -> Any:
        method = getattr(Tensor, names.get(name, name), None)
        if method is None:
            raise NotThere(name)
        if name in ("var", "std"):  # whose default is the estimate from a sample
            return lambda x, axis=None: method(x, axis=axis, correction=0)
        return method

    class Names:
        linalg = SimpleNamespace()

        def __getattr__(self, name: str) -> Any:
            return looked_up(name)

    def vjp(f: Any, xs: Any, g: Any) -> list[Any]:
        own = [Tensor(np.array(x)) for x in xs]
        return [d.numpy() for d in f(*own).gradient(*own, gradient=Tensor(np.array(g)))]

    return Names(), vjp


LIBRARIES = {
    "autograd": of_autograd, "jax": of_jax, "micrograd": of_micrograd, "mygrad": of_mygrad,
    "pytensor": of_pytensor, "tinygrad": of_tinygrad,
}  # fmt: skip


# ------------------------------------------------------------------ one backward
@contextmanager
def within(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def is_there(shared: Shared, names: Any, vjp: Vjp) -> bool:
    """Say whether the library has the function, and a derivative of it, at the example."""
    xs = tuple(x.numpy() for x in shared.example)
    g = np.ones(tuple(shared.torchs(*shared.example).shape))
    try:
        return all(
            np.shape(d) == x.shape for d, x in zip(vjp(lambda *a: shared.theirs(names, *a), xs, g), xs, strict=True)
        )
    except Exception:  # of the library, which has another notation, or no derivative
        return False


def held(library: str, shared: Shared, names: Any, vjp: Vjp) -> dict[str, Any]:
    """Return the verdict on a library's backward of a function, and the report's words."""

    def theirs(*xs: Any) -> Any:
        return shared.theirs(names, *xs)

    def backward(grad_y: Any, *primals: Any) -> Any:
        return tuple(vjp(theirs, primals, grad_y))

    start = time.process_time()
    try:
        with within(SECONDS):
            report = check(
                backward, forward=shared.torchs, example=shared.example, raise_on_failure=False,
                framework="jax" if library == "jax" else "numpy",
            )  # fmt: skip
        verdict, words = report.verdict, str(report)
    except InputError as error:
        verdict, words = "refused", str(error)
    except TimeoutError as error:
        verdict, words = "too long", str(error)
    except Exception as error:  # what must not be
        verdict, words = "crash", f"{type(error).__name__}: {error}"
    return {"verdict": verdict, "words": words, "seconds": time.process_time() - start}


ORDER = ("right", "convention", "inaccurate", "wrong", "inconclusive", "refused", "too long", "crash")


def page(found: dict[str, dict[str, dict[str, Any]]]) -> Iterator[str]:
    yield f"| library | version | backwards | {' | '.join(ORDER)} |"
    yield "|---" * (3 + len(ORDER)) + "|"
    total: Counter[str] = Counter()
    for library, each in found.items():
        count = Counter(one["verdict"] for one in each.values())
        total += count
        version = importlib.metadata.version(library)
        yield f"| {library} | {version} | {len(each)} | {' | '.join(str(count[v]) for v in ORDER)} |"
    yield f"| all | | {total.total()} | {' | '.join(str(total[v]) for v in ORDER)} |"
    yield ""
    yield "| library | function | verdict | what |"
    yield "|---|---|---|---|"
    for library, each in found.items():
        for name, one in each.items():
            if one["verdict"] != "right":
                lines = [line.split(None, 1)[1] for line in one["words"].splitlines() if line.strip().startswith(
                    ("what", "expected", "got"))] or one["words"].splitlines()[:1]  # fmt: skip
                what = "; ".join(line.replace("|", "\\|")[:120] for line in lines)
                yield f"| {library} | {name} | {one['verdict']} | {what} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("libraries", nargs="+", choices=LIBRARIES)
    parser.add_argument("--only", nargs="*", help="these functions")
    parser.add_argument("--results", type=Path, default=Path(".public_code.json"), help="where results are kept")
    parser.add_argument("--write", type=Path, help="the page whose table is replaced")
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    os.environ.setdefault("JAX_ENABLE_X64", "1")
    kept = json.loads(asked.results.read_text()) if asked.results.is_file() else {}
    for library in asked.libraries:
        names, vjp = LIBRARIES[library]()
        for name, shared in FUNCTIONS.items():
            if (asked.only and name not in asked.only) or not is_there(shared, names, vjp):
                continue
            one = held(library, shared, names, vjp)
            kept.setdefault(library, {})[name] = one
            asked.results.write_text(json.dumps(kept, indent=1))
            print(library, name, one["verdict"], f"{one['seconds']:.1f} s", file=sys.stderr, flush=True)
            if one["verdict"] != "right" and asked.only:
                print(one["words"])
    if asked.write:
        from tolerances import write

        write(asked.write, {"libraries": list(page(kept))})


if __name__ == "__main__":
    main()
