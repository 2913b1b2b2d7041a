"""The yardstick Y: the CPU time of a fixed piece of work, in which the times of others are told on any machine."""

import time

import torch

ROUNDS = 400_000


def yardstick() -> float:
    """Return one measurement: the CPU seconds of small operations of torch, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    x = torch.ones(4, 4, dtype=torch.float64)
    start = time.process_time()
    for _ in range(ROUNDS):
        x = (x + x).mul(0.5)
    taken = time.process_time() - start
    torch.set_num_threads(threads)
    return taken


if __name__ == "__main__":
    print(f"{yardstick():.3f}")
