"""The largest errors that the vendors of mathematical functions document, in units in the last place (ulps).

torch's float32 and float64 kernels for the CPU call, as arrays, strides and lengths have it, SLEEF's
functions ending in `_u10` (at most 1.0 ulp, https://sleef.org/purec.xhtml), MKL's vector mathematics in its
mode HA (at most 1.0 ulp, Intel oneMKL VM accuracy and performance), or glibc's libm (The GNU C Library,
section 19.7, Known Maximum Errors in Math Functions, and its sysdeps/x86_64/fpu/libm-test-ulps). An entry is
the largest of them. On CUDA they call CUDA's own (CUDA C++ Programming Guide, appendix Mathematical
Functions, tables of the maximum ulp error of the single- and double-precision standard library functions).
"""

from functools import cache

import torch

# name: (cpu float32, cpu float64, cuda float32, cuda float64)
ULPS: dict[str, tuple[float, float, float, float]] = {
    "exp": (1, 1, 2, 1),
    "exp2": (1, 1, 2, 1),
    "expm1": (1, 1, 1, 1),
    "log": (1, 1, 1, 1),
    "log1p": (1, 1, 1, 1),
    "log2": (1, 2, 1, 1),  # glibc: 2
    "log10": (2, 2, 2, 1),  # glibc: 2
    "sin": (1, 1, 2, 2),
    "cos": (1, 1, 2, 2),
    "tanh": (2, 2, 2, 1),  # glibc: 2
    "erf": (1, 1, 2, 2),
    "erfc": (2.5, 5, 4, 5),  # Sleef_erfc_u15: 2.5 for arguments above 26.2; glibc: 5
    "pow": (1, 1, 4, 2),
    "hypot": (1, 1, 3, 2),
    # Correctly rounded by IEEE 754, and on CUDA with -prec-sqrt=true, which torch does not change; but not by
    # MKL's mode HA, which torch.sqrt of contiguous tensors takes.
    "sqrt": (1, 1, 0.5, 0.5),
    # On the CPU a square root and a quotient: 1.5 u each to first order, together within 2 u = 1 ulp.
    "rsqrt": (1, 1, 2, 1),
}


@cache
def ulps(name: str, dtype: torch.dtype, device: str) -> float:
    """Return the largest error of the function in ulps, for a kernel that computes in this dtype."""
    if device not in ("cpu", "cuda"):
        raise NotImplementedError(f"no documented error of {name} on the device {device}")
    return ULPS[name][2 * (device == "cuda") + (dtype in (torch.float64, torch.complex128))]
