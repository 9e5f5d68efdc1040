"""Tells the stories, or those that are named, and what came of them.

    python main.py [--list | --first-three | STORY...]

It changes the network and mounts file systems: `run` gives it a network and a process tree of its own.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shutil
import signal
import sys
import time
import traceback

from stories import STORIES, Outcome, Stage
from world import REPOSITORY, Failure, World

STATE = REPOSITORY / "target/kubernetes/state"
COLUMNS = {
    "story": 24,
    "pods": 4,
    "restarts": 8,
    "volumes lost": 12,
    "operations": 10,
    "acknowledged": 12,
    "unknown": 7,
    "lost": 4,
    "longest gap": 11,
    "took": 7,
}


def row(name: str, outcomes: list[Outcome], seconds: float) -> list[str]:
    tallies = [outcome.tally for outcome in outcomes]
    return [
        name,
        str(sum(outcome.pods for outcome in outcomes)),
        str(sum(tally.restarts for tally in tallies)),
        str(sum(outcome.volumes_lost for outcome in outcomes)),
        str(sum(tally.operations for tally in tallies)),
        str(sum(tally.acknowledged for tally in tallies)),
        str(sum(tally.unknown for tally in tallies)),
        str(sum(len(outcome.violations) for outcome in outcomes)),
        f"{max((tally.longest_gap for tally in tallies), default=0.0):.1f} s",
        f"{seconds:.0f} s",
    ]


def line(cells: list[str]) -> str:
    """Names to the left, numbers to the right."""
    padded = zip(cells, COLUMNS.values(), strict=True)
    return "  ".join(cell.rjust(width) if place else cell.ljust(width) for place, (cell, width) in enumerate(padded))


def tell(world: World, names: list[str]) -> int:
    """Tells the stories; how many writes were acknowledged."""
    stage, acknowledged = Stage(world), 0
    print(line(list(COLUMNS)), flush=True)
    for name in names:
        begin = time.monotonic()
        stage.begin()
        try:
            STORIES[name](stage)
            outcomes = stage.end()
        except Exception as error:
            raise Failure(f"{name}: {error}") from error
        print(line(row(name, outcomes, time.monotonic() - begin)), flush=True)
        acknowledged += sum(outcome.tally.acknowledged for outcome in outcomes)
        if broken := [words for outcome in outcomes for words in outcome.violations]:
            raise Failure(f"{name}: promises were broken: {'; '.join(broken[:10])}")
    return acknowledged


def chosen() -> list[str]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("story", nargs="*", help="one of those that --list names")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--first-three", action="store_true")
    options = parser.parse_args()
    if options.list:
        for name, story in STORIES.items():
            print(f"{name:22}{' '.join((story.__doc__ or '').split())}")
        sys.exit()
    if unknown := set(options.story) - STORIES.keys():
        parser.error(f"no such story: {', '.join(sorted(unknown))}")
    return list(STORIES)[:3] if options.first_three else options.story or list(STORIES)


def main() -> int:
    names = chosen()
    # What `run` sends when it is interrupted, or told to end.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    shutil.rmtree(STATE, ignore_errors=True)
    STATE.mkdir(parents=True)
    world = World(STATE, pathlib.Path(os.environ["MOKV_KUBERNETES_CACHE"]), pathlib.Path(os.environ["MOKV_BINARY"]))
    try:
        world.start()
        acknowledged = tell(world, names)
        print(f"\n{len(names)} stories, {acknowledged} acknowledged writes, none of them lost")
        return 0
    except KeyboardInterrupt:
        print("interrupted")
        return 130
    except Exception as error:
        print(f"\nFAILED  {error}", flush=True)
        if not isinstance(error.__cause__, Failure | None):
            traceback.print_exception(error.__cause__)
        world.diagnose()
        return 1
    finally:
        world.stop()
        world.remove()


if __name__ == "__main__":
    sys.exit(main())
