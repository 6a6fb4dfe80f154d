"""The steps of a family in a process of its own, with limits."""
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Dict, Tuple

from . import steps
from .choice import config_of

#: Of a processor, as the machine may have other work; and of the clock.
SECONDS, HANGS = 120, 600
#: Bytes.
MEMORY = 4 << 30

Row = Dict[str, Tuple[object, str]]


def row(folder: str, words: str, tmp: Path) -> Row:
    """What is found out about a family: by step whether it is right, and why
    not or what.

    A crash, a hang or too much memory is one finding, ``'process'``.

    Args:
        folder: Of MMDetection's configs.
        words: Folder of a language model.
        tmp: Folder for what is written.
    """
    tmp.mkdir(parents=True, exist_ok=True)
    notes, start = tmp / 'notes.jsonl', time.time()
    child = multiprocessing.get_context('fork').Process(
        target=_child, args=(folder, words, tmp, notes))
    child.start()
    child.join(HANGS)
    why = ''
    if child.is_alive():
        why = f'not ready after {HANGS} seconds'
        child.kill()
        child.join()
    elif child.exitcode == -signal.SIGXCPU:
        why = f'not ready after {SECONDS} seconds of a processor'
    elif child.exitcode:
        why = f'ended with {child.exitcode}'
    found = dict(config=(True, config_of(folder)))
    if notes.exists():
        for line in notes.read_text().splitlines():
            step, right, what, _ = json.loads(line)
            found[step] = right, what
    if why:
        found['process'] = False, why
    found['seconds'] = True, f'{time.time() - start:.0f}'
    return found


def _child(folder: str, words: str, tmp: Path, notes: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, hard))
    used = sum(os.times()[:2])
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used) + SECONDS, hard))
    output = os.open(tmp / 'output.txt', os.O_CREAT | os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(output, 1)
    os.dup2(output, 2)

    start = time.time()

    def note(step: str, right: object, what: str) -> None:
        with notes.open('a') as file:
            file.write(json.dumps(
                [step, right, what, round(time.time() - start, 1)]) + '\n')

    steps.run(folder, config_of(folder), words, tmp, note)
