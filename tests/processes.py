"""Processes for tests, forked from one that has imported the libraries once for all of them."""

import multiprocessing
import os
import runpy
import socket
import sys

import torch

LIBRARIES = ["lightning.pytorch", "pandas", "scipy.optimize", "scipy.stats", "tests.processes"]
LIBRARIES += ["gendebug_torch.callbacks", "gendebug_torch.diagnosis.diagnose"]


def run_ranks(function, *arguments, ranks=2):
    """Call `function(rank, *arguments)` in as many processes; what one raises is raised here."""
    multiprocessing.set_forkserver_preload(LIBRARIES)
    torch.multiprocessing.start_processes(function, arguments, ranks, start_method="forkserver")


def run_script_on_two_ranks(script, *words):
    """Run a script as the two processes of a Lightning training that were started from outside."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run_ranks(_script, port, str(script), [*map(str, words)])


def _script(rank, port, script, words):
    torch.set_num_threads(1)
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    sys.argv = [script, *words]
    runpy.run_path(script, run_name="__main__")
