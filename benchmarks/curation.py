"""Time and memory of curation against the size of the pool: 10, 30, 100 thousand and more.

    python -m benchmarks.curation                    # 10,000, 30,000 and 100,000 vectors
    python -m benchmarks.curation --sizes 1000000    # minutes to tens of minutes

The pool is drawn block by block: clusters of unit vectors, a tenth of them near-copies of another
one, so that recall can be counted. Each size runs in a process of its own, on one thread per
core that OMP_NUM_THREADS allows. Peak memory is that of the whole process, its imports included;
`anonymous` is the part of it that the system cannot drop at will, as it can pages of files.
Results are added to benchmarks/curation.json with the machine described.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import faiss
import numpy as np
import torch

from dino_tutorial.curation import (
    StoredArray,
    cluster_hierarchy,
    deduplicate,
    duplicate_scores,
    retrieve_clusters,
    retrieve_nearest,
)
from dino_tutorial.curation.whitening import unit_rows
from dino_tutorial.runs.environment import describe_environment

RESULTS = Path(__file__).parent / "curation.json"
DIM, CONCEPTS, ROWS, SEEDS = 128, 1000, 65536, 1000
TAKEN = 100  # images of each of 100 clusters, at most
COPY_EVERY = 10  # one vector in so many nearly repeats the one before it


def draw_pool(folder: Path, n: int) -> StoredArray:
    """(n, DIM) unit vectors around concepts, on disk; vector 10 i + 1 is a copy of 10 i."""
    concepts = unit_rows(np.random.default_rng(0).standard_normal((CONCEPTS, DIM)))
    pool = StoredArray(folder, n, ROWS)
    for file in range(pool.files):
        rng = np.random.default_rng((1, file))
        ids = np.array(pool.span(file))
        noise = rng.standard_normal((len(ids), DIM)).astype(np.float32) / np.sqrt(DIM)
        vectors = concepts[rng.integers(CONCEPTS, size=len(ids))] + 1.2 * noise
        copies = np.flatnonzero(ids % COPY_EVERY == 1)
        copies = copies[copies > 0]
        vectors[copies] = vectors[copies - 1] + 0.4 * noise[copies]
        pool.write(file, unit_rows(vectors))
    return pool


def true_groups(n: int) -> np.ndarray:
    ids = np.arange(n)
    copies = (ids % COPY_EVERY == 1) & (ids % ROWS > 0)
    return ids - copies


class Memory:
    """Watches this process from a thread: the largest anonymous memory so far, in MiB."""

    def __init__(self):
        self.anonymous = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.anonymous = max(self.anonymous, memory("RssAnon"))
            time.sleep(0.02)


def memory(name: str) -> float:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if name in line) / 1024


def measure(n: int, block: int) -> dict:
    """Deduplicate a pool, retrieve around seeds both ways, cluster what the second way brought."""
    results: dict = {"images": n, "dim": DIM, "block": block}
    results["threads"] = faiss.omp_get_max_threads()
    with tempfile.TemporaryDirectory() as folder:
        with ProcessPoolExecutor(1) as apart:  # what drawing leaves in memory does not count
            pool = apart.submit(draw_pool, Path(folder) / "pool", n).result()
        results["pool_mib"] = n * DIM * 4 / 2**20
        results["before_mib"] = memory("RssAnon")
        watched = Memory()

        def timed(name: str, work):
            # Processor time: other programs on the machine do not count.
            start, wall = time.process_time(), time.perf_counter()
            value = work()
            results[f"{name}_cpu_seconds"] = round(time.process_time() - start, 2)
            results[f"{name}_seconds"] = round(time.perf_counter() - wall, 2)
            return value

        found = timed("deduplicate", lambda: deduplicate(pool, block=block))
        seeds = pool.take(np.linspace(0, n - 1, SEEDS).astype(int))
        where = {"block": block, "allowed": found.kept}
        timed("nearest", lambda: retrieve_nearest(pool, seeds, 4, **where))
        ids = timed("clusters", lambda: retrieve_clusters(pool, seeds, 100, TAKEN, **where)).ids
        timed("hierarchy", lambda: cluster_hierarchy(pool, (1000, 100), block, ids=ids))
        results["peak_anonymous_mib"] = round(watched.anonymous, 1)
        results["peak_resident_mib"] = round(memory("VmHWM"), 1)
        scores = duplicate_scores(found.labels, true_groups(n), found.kept)
        results |= {name: round(value, 4) for name, value in scores.items()}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.curation", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--block", type=int, default=8192)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.sizes[0], options.block)))
        return
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    for n in options.sizes:
        words = ["--one", "--sizes", str(n), "--block", str(options.block)]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.curation", *words],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        row = json.loads(done.stdout)
        print(row)
        rows = [old for old in rows if old["images"] != n] + [row]
        machine = describe_environment(torch.device("cpu"))
        results = {"machine": machine, "rows": sorted(rows, key=lambda row: row["images"])}
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
