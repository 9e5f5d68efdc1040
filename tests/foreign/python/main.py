"""A client of mökv on grpcio, which proves that the contract holds for others than its authors.

    python main.py HOST:PORT

HOST:PORT is any node of a cluster of three. A line is printed for each thing that was proved. In between the program
asks for nodes to be killed and started again ("do  kill NAME"), and goes on when it reads a line from its standard
input.
"""

from __future__ import annotations

import sys

import grpc

from cluster import Failure, Node, Refusal, require
from proofs import CLAIMS, Story


def ask(what: str) -> None:
    print("do ", what, flush=True)
    require(sys.stdin.readline() != "", f"nobody did it: {what}")


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: main.py HOST:PORT", file=sys.stderr)
        return 2
    story = Story(Node(sys.argv[1]), ask)
    for words, prove in CLAIMS:
        try:
            detail = prove(story)
        except Failure as failure:
            print(f"FAIL  {words}: {failure}")
            return 1
        except grpc.RpcError as error:
            print(f"FAIL  {words}: {Refusal(error)}")
            return 1
        print(f"ok  {words}{f' ({detail})' if detail else ''}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
