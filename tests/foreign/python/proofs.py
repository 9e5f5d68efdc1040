"""What is proved, in the order of this file."""

from __future__ import annotations

import time
from collections.abc import Callable

from grpc import StatusCode

from cluster import Node, Refusal, api, equal, eventually, refused, require

Prove = Callable[["Story"], str | None]

CLAIMS: list[tuple[str, Prove]] = []

# Of a store without a majority, before it is believed to refuse every write.
REFUSALS = 10
MAX_KEY_BYTES = 4096
MAX_VALUE_BYTES = 1024 * 1024


def claim(words: str) -> Callable[[Prove], Prove]:
    """Adds a proof of this. It may return a detail."""

    def add(prove: Prove) -> Prove:
        CLAIMS.append((words, prove))
        return prove

    return add


class Story:
    """What the proofs of one run share."""

    def __init__(self, node: Node, ask: Callable[[str], None]) -> None:
        # The one that was named; others are learned of.
        self.node = node
        # Asks whoever watches over the cluster to do something, and returns when it is done.
        self.ask = ask
        # By name.
        self.nodes: dict[str, Node] = {}
        self._prefix = f"python/{time.time_ns()}/"

    def key(self, name: str) -> bytes:
        return (self._prefix + name).encode()

    def leader(self) -> str:
        """The name of the one that leads."""
        leaders = [server.id for server in self.node.servers() if server.is_leader]
        require(len(leaders) == 1, f"{leaders} lead")
        return str(leaders[0])


@claim("every member is listed, and one of them leads")
def members(story: Story) -> str:
    leader = eventually(story.leader)
    servers = story.node.servers()
    story.nodes = {server.id: Node(server.rpc_addr) for server in servers}
    equal("the number of members", len(servers), 3)
    equal("the number of ids", len({server.node_id for server in servers} - {0}), 3)
    require(not any(server.is_learner for server in servers), "a member does not vote")
    return f"{', '.join(sorted(story.nodes))}; {leader} leads"


@claim("the standard health service says SERVING of every node and service")
def health(story: Story) -> None:
    for node in story.nodes.values():
        for service in ["", "api.KV", "api.Admin"]:
            eventually(node.require_health, service, "SERVING")
        equal("an unknown service", refused(node.health, "nonsense").code, StatusCode.NOT_FOUND)


@claim("a value is returned byte by byte as it was written, with its revisions")
def sets_and_gets(story: Story) -> None:
    node, key = story.node, story.key("fields")
    first = node.set(key, b"one")
    value = bytes(range(256))
    equal("the revision of the next write", node.set(key, value), first + 1)
    node.set(story.key("other"), b"")
    entry = api.GetResponse(
        key=key, value=value, revision=first + 2, create_revision=first, mod_revision=first + 1, version=2
    )
    equal("the entry", node.get(key), entry)


@claim("a delete says whether the key was there")
def deletes(story: Story) -> None:
    node, key = story.node, story.key("deleted")
    written = node.set(key, b"short-lived")
    for existed in [True, False]:
        answer = api.DeleteResponse(ok=True, existed=existed, revision=written + 1)
        equal("the answer", node.delete(key), answer)


@claim("writes and linearizable reads work through any node")
def any_node(story: Story) -> None:
    for writer_name, writer in story.nodes.items():
        revision = writer.set(story.key("anywhere"), writer_name.encode())
        for name, reader in story.nodes.items():
            entry = reader.get(story.key("anywhere"))
            equal(f"what {name} reads", (entry.value, entry.mod_revision), (writer_name.encode(), revision))


@claim("a conditional write happens once, and its refusal returns the present revision")
def conditions(story: Story) -> None:
    node, key = story.node, story.key("condition")

    def check(refusal: Refusal, present: int) -> None:
        equal("the code", refusal.code, StatusCode.FAILED_PRECONDITION)
        equal("mokv-reason", refusal.metadata.get("mokv-reason"), "condition-failed")
        details = refusal.details()
        equal("the number of details", len(details), 1)
        detail = api.ConditionFailed()
        require(details[0].Unpack(detail), f"the detail is a {details[0].type_url}")
        equal("the present revision", detail.present_revision, present)

    created = node.set(key, b"first", if_revision=0)
    check(refused(node.set, key, b"again", if_revision=0), created)
    check(refused(node.delete, key, if_revision=created + 1), created)
    check(refused(node.delete, story.key("absent"), if_revision=created), 0)
    equal("the revision of a met condition", node.set(key, b"second", if_revision=created), created + 1)
    require(node.delete(key, if_revision=created + 1).existed, "the key is gone")


@claim("an absent key is NOT_FOUND at a revision, wrong arguments are INVALID_ARGUMENT")
def errors(story: Story) -> None:
    node = story.node
    revision = node.set(story.key("largest"), b"\0" * MAX_VALUE_BYTES)
    equal("the largest value", len(node.get(story.key("largest")).value), MAX_VALUE_BYTES)
    absent = refused(node.get, story.key("absent"))
    equal("the code of an absent key", absent.code, StatusCode.NOT_FOUND)
    equal("its mokv-revision", absent.metadata.get("mokv-revision"), str(revision))
    too_long = b"k" * (MAX_KEY_BYTES + 1)
    wrong = {
        "an empty key": refused(node.get, b""),
        "a long key": refused(node.delete, too_long),
        "a long value": refused(node.set, story.key("larger"), b"\0" * (MAX_VALUE_BYTES + 1)),
    }
    for what, refusal in wrong.items():
        equal(f"the code of {what}", refusal.code, StatusCode.INVALID_ARGUMENT)


@claim("a stale read waits for min_revision, and is refused rather than older")
def stale_reads(story: Story) -> None:
    writer = story.nodes[story.leader()]
    key = story.key("stale")
    for number in range(20):
        value = str(number).encode()
        revision = writer.set(key, value)
        for name, node in story.nodes.items():
            entry = node.get(key, consistency=api.STALE, min_revision=revision)
            equal(f"what {name} reads", (entry.value, entry.mod_revision), (value, revision))
    future = refused(story.node.get, key, consistency=api.STALE, min_revision=revision + 1000)
    equal("the code of a revision that is not there yet", future.code, StatusCode.UNAVAILABLE)


@claim("pages of a list are of one revision, whatever is written in between")
def pages(story: Story) -> str:
    node = story.node
    keys = [story.key(f"page/{name}") for name in ["a", "b", "c", "d", "ü"]] + [story.key("page/") + b"\xff"]
    for key in keys:
        node.set(key, b"value of " + key)
    page, revision = node.entries(prefix=story.key("page/"), limit=2)
    everything = list(page)
    while page:
        last = page[-1].key
        node.set(story.key(f"page/{len(everything)}"), b"not there at the first page")
        node.delete(keys[-1])
        page, at = node.entries(prefix=story.key("page/"), limit=2, start_after=last, at_revision=revision)
        equal("the revision of a page", at, revision)
        everything += page
    equal("the keys", [entry.key for entry in everything], keys)
    equal("the values", [entry.value for entry in everything], [b"value of " + key for key in keys])
    names, _ = node.entries(prefix=story.key("page/"), keys_only=True)
    require(not any(entry.value for entry in names), "a value was not left out")
    future = refused(node.entries, limit=2, at_revision=revision + 1_000_000)
    equal("the code of a revision that is not there yet", future.code, StatusCode.INVALID_ARGUMENT)
    return f"{len(everything)} keys at revision {revision}"


@claim("without a majority writes are not executed, and reads are refused unless stale")
def no_majority(story: Story) -> str:
    story.node.set(story.key("before"), b"there was a majority")
    leader = story.leader()
    survivor = next(name for name in story.nodes if name != leader)
    lost = [name for name in story.nodes if name != survivor]
    for name in lost:
        story.ask(f"kill {name}")
    node = story.nodes[survivor]
    not_executed: list[bytes] = []
    unknown = 0
    while len(not_executed) < REFUSALS:
        key = story.key(f"refused/{len(not_executed) + unknown}")
        refusal = refused(node.set, key, b"in vain")
        outcome = refusal.metadata.get("mokv-outcome")
        if refusal.code == StatusCode.UNAVAILABLE and outcome == "none":
            not_executed.append(key)
        else:
            # What was under way to the leader when it died.
            require(outcome == "unknown", f"the outcome of a write is {refusal}")
            unknown += 1
            require(unknown < REFUSALS, "most writes are of unknown outcome")
    read = refused(node.get, story.key("before"))
    equal("the code of a linearizable read", read.code, StatusCode.UNAVAILABLE)
    equal("its mokv-outcome", read.metadata.get("mokv-outcome"), "none")
    entry = node.get(story.key("before"), consistency=api.STALE)
    equal("a stale read", entry.value, b"there was a majority")
    eventually(node.require_health, "api.KV", "NOT_SERVING")

    for name in lost:
        story.ask(f"start {name}")
    eventually(node.set, story.key("after"), b"there is a majority")
    for key in not_executed:
        equal(f"{key!r}, not executed", refused(node.get, key).code, StatusCode.NOT_FOUND)
    eventually(node.require_health, "api.KV", "SERVING")
    return f"{survivor} refused {REFUSALS} writes, and none was found"
