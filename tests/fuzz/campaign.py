"""Damaged inputs for every reader: each is read, or refused with an InputError, and soon."""

import argparse
import collections
import json
import math
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

from gendebug_torch.errors import GendebugError, InputError

ACCEPTED, REFUSED, OTHER, HANG = "accepted", "refused", "other", "hang"
# Seconds of silence after which an input is a hang, where the processor had half of them: one
# that waits for a busy machine has patience times as long. Memory beyond that of the start.
SECONDS, PATIENCE, BYTES = 20, 6, 2 * 2**30


def outcome(reader, number, seed, folder):
    """What came of one input, and the error: all follows from reader, number and seed."""
    rng = random.Random(f"{seed}/{reader.name}/{number}")
    files = reader.damaged(rng)
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    try:
        reader.read(folder)
    except InputError as error:
        return REFUSED, str(error)
    except GendebugError as error:
        return REFUSED, str(error)
    except Exception as error:
        steps = traceback.extract_tb(error.__traceback__)
        own = [step for step in steps if "gendebug_torch" in step.filename] or steps
        place = f"{Path(own[-1].filename).name}:{own[-1].lineno}"
        return OTHER, f"{type(error).__name__} at {place}: {str(error)[:200]}"
    return ACCEPTED, ""


def _child(reader, numbers, seed, pipe):
    """Read inputs in a process of limited memory, one line of JSON for each."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    warnings.simplefilter("ignore")
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder, os.fdopen(pipe, "w", buffering=1) as out:
        for number in numbers:
            began = time.process_time()
            kind, text = outcome(reader, number, seed, Path(folder) / "input")
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start
            entry = (number, kind, text, time.process_time() - began, peak // 1024)
            out.write(json.dumps(entry) + "\n")


def _processor_seconds(process):
    """Seconds of the processor that a process has had."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _next_lines(pipe, child):
    """Bytes that a child writes, empty at its end; None where it hangs."""
    before = _processor_seconds(child)
    for _ in range(PATIENCE):
        if select.select([pipe], [], [], SECONDS)[0]:
            return os.read(pipe, 1 << 16)
        if _processor_seconds(child) - before > SECONDS / 2:
            return None
    return None


def run(reader, inputs, seed=0):
    """Outcomes of that many inputs: number, kind, text, seconds, MB above the start."""
    reader.files()
    outcomes, first = [], 0
    while first < inputs:
        lines, end = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(lines)
            status, errors = 1, os.fdopen(os.dup(2), "w")
            try:
                _child(reader, range(first, inputs), seed, end)
                status = 0
            except BaseException:
                traceback.print_exc(file=errors)
                errors.flush()
            finally:
                os._exit(status)
        os.close(end)
        rest = b""
        while True:
            piece = _next_lines(lines, child)
            if not piece:
                break
            *whole, rest = (rest + piece).split(b"\n")
            outcomes += [tuple(json.loads(line)) for line in whole]
        os.close(lines)
        if piece is None:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        first = outcomes[-1][0] + 1 if outcomes else 0
        if first < inputs:
            text = "killed after its time" if piece is None else f"ended with status {status}"
            outcomes.append((first, HANG if piece is None else OTHER, text, float(SECONDS), 0))
            first += 1
    return outcomes


def table_row(name, outcomes):
    """One line of the table of a campaign."""
    kinds = collections.Counter(kind for _, kind, *_ in outcomes)
    counts = " | ".join(str(kinds[kind]) for kind in (ACCEPTED, REFUSED, OTHER, HANG))
    slowest = max(seconds for *_, seconds, _ in outcomes)
    peak = max(megabytes for *_, megabytes in outcomes)
    return f"| {name} | {len(outcomes)} | {counts} | {slowest:.2f} | {peak} |"


def main():
    """The table of a campaign; exit code 1 where an input gave anything else than an InputError."""
    from tests.fuzz.readers import READERS

    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, help="in all, over the readers")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--reader", choices=READERS, action="append")
    parser.add_argument("--refusals", action="store_true", help="print some of the messages")
    options = parser.parse_args()
    chosen = [READERS[name] for name in options.reader or READERS]
    share = options.inputs / sum(1 / reader.cost for reader in chosen)
    print("| reader | inputs | accepted | refused | other | hangs | slowest s | peak MB |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    failures = {}
    for reader in chosen:
        outcomes = run(reader, math.ceil(share / reader.cost), options.seed)
        print(table_row(reader.name, outcomes), flush=True)
        for number, kind, text, *_ in outcomes:
            if kind in (OTHER, HANG):
                key = (reader.name, kind, text.partition(": ")[0])
                failures.setdefault(key, []).append((number, text))
        if options.refusals:
            refused = [text for _, kind, text, *_ in outcomes if kind == REFUSED]
            print(*random.Random(0).sample(refused, min(8, len(refused))), sep="\n")
    for (name, kind, _), cases in sorted(failures.items(), key=lambda one: -len(one[1])):
        print(f"{name}: {len(cases)} x {kind}, e.g. input {cases[0][0]}: {cases[0][1]}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
