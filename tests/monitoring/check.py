"""Holds the dashboard and the alert rules against a cluster that runs and a Prometheus that scrapes it.

tests/monitoring/run calls this; README.md beside it says what is checked.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import compose
from cluster import Cluster, Failed, Node, free_port, stop, wait_for
from promql import selectors

# What Grafana puts in place of its variables. Scrapes come every second here.
VARIABLES = {"namespace": ".*", "job": "mokv", "instance": ".*", "__rate_interval": "20s"}

# Values of these labels that a healthy cluster does not show: the metric has to be there all the same.
MAY_BE_ABSENT = {"code"}

# What they say of a healthy cluster depends on the machine: its disk, its speed, and what else runs on it.
JUDGE_THE_MACHINE = {
    "MokvDiskFillsUp",
    "MokvDiskNearlyFull",
    "MokvDiskWritesRefused",
    "MokvFsyncSlow",
    "MokvLatencyHigh",
}


@dataclass(frozen=True)
class Query:
    """An expression and where it stands."""

    place: str
    expression: str
    # Whether a healthy cluster has an answer to it; alerts have none.
    answers: bool


class Prometheus:
    """A real one, with the shipped configuration but for addresses and intervals."""

    def __init__(self, program: str, deploy: Path, scratch: Path, nodes: list[Node]) -> None:
        config = (deploy / "prometheus/prometheus.yml").read_text()
        for given, here in [("node-1:4000", nodes[0].metrics), ("node-2:4000", nodes[1].metrics),
                            ("node-3:4000", nodes[2].metrics), ("scrape_interval: 15s", "scrape_interval: 1s"),
                            ("evaluation_interval: 15s", "evaluation_interval: 1s"),
                            ("- alerts.yaml", f"- {deploy / 'prometheus/alerts.yaml'}")]:  # fmt: skip
            if config.count(given) != 1:
                raise Failed(f"prometheus.yml does not say '{given}' once")
            config = config.replace(given, here)
        (scratch / "prometheus.yml").write_text(config)
        address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{address}/api/v1/"
        self.log = scratch / "prometheus.log"
        command = [program, f"--config.file={scratch / 'prometheus.yml'}", f"--storage.tsdb.path={scratch / 'tsdb'}",
                   f"--web.listen-address={address}"]  # fmt: skip
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=scratch)

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer; an error's text is raised."""
        body = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}{path}?{body}", timeout=60) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            try:
                raise Failed(json.loads(text).get("error", str(error))) from None
            except json.JSONDecodeError:
                # It is still starting.
                raise Failed(text or str(error)) from None

    def query(self, expression: str) -> list[dict[str, Any]]:
        return list(self.ask("query", query=expression)["result"])

    def wait_until_scraped(self) -> None:
        def look() -> bool | None:
            if self.process.poll() is not None:
                raise Failed(f"Prometheus ended:\n{self.log.read_text()}")
            try:
                up = self.query("up == 1")
            except (OSError, Failed):
                return None
            return True if len(up) == 3 else None

        wait_for("Prometheus to scrape three nodes", look)

    def alerts(self) -> list[dict[str, Any]]:
        """The rules that it has loaded."""
        return [rule for group in self.ask("rules")["groups"] for rule in group["rules"]]


def substitute(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = re.sub(rf"\$(?:{name}\b|\{{{name}\}})", value, expression)
    return expression


def dashboard_queries(dashboard: dict[str, Any]) -> list[Query]:
    found = []
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            place = f"panel '{panel['title']}' {target['refId']}"
            found.append(Query(place, substitute(target["expr"]), answers=True))
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            match = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
            if match is None or match[2] != variable["name"]:
                raise Failed(f"variable {variable['name']}: not understood: {variable['query']['query']}")
            found.append(Query(f"variable {match[2]}", substitute(match[1]), answers=True))
    return found


def alert_queries(rules: list[dict[str, Any]]) -> list[Query]:
    return [Query(f"alert {rule['name']}", rule["query"], answers=False) for rule in rules]


def problem_of(prometheus: Prometheus, query: Query) -> str | None:
    """What is wrong with a query now, if anything is."""
    if "$" in query.expression:
        return f"{query.place}: a variable that nobody sets: {query.expression}"
    try:
        wanted = selectors(query.expression)
        for selector in wanted:
            if not prometheus.query(str(selector.without(MAY_BE_ABSENT))):
                return f"{query.place}: no node exports {selector}"
        answer = prometheus.query(query.expression)
    except (Failed, ValueError) as error:
        return f"{query.place}: {error}"
    if not wanted:
        return f"{query.place}: asks for no metric"
    if query.answers and all(series["value"][1] == "NaN" for series in answer):
        return f"{query.place}: {'no number in the answer' if answer else 'no answer'} to {query.expression}"
    return None


def problems_in_the_end(prometheus: Prometheus, queries: list[Query]) -> list[str]:
    """What is still wrong with queries after some patience: rates need a while."""
    left: list[str] = []

    def look() -> bool | None:
        nonlocal left
        left = [problem for query in queries if (problem := problem_of(prometheus, query))]
        return None if left else True

    try:
        wait_for("answers to all queries", look)
    except Failed:
        return left
    return []


def layout_problems(dashboard: dict[str, Any]) -> list[str]:
    """What a person would stumble over."""
    found = []
    taken: dict[tuple[int, int], str] = {}
    ids: set[int] = set()
    for panel in dashboard["panels"]:
        place = f"panel '{panel['title']}'"
        if panel["id"] in ids:
            found.append(f"{place}: its id is another's, too")
        ids.add(panel["id"])
        at = panel["gridPos"]
        for cell in [(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])]:
            if cell[0] >= 24 or taken.setdefault(cell, place) != place:
                found.append(f"{place}: lies on {taken.get(cell, 'nothing')}")
                break
        if panel["type"] == "row":
            continue
        if not panel.get("description") or not panel["fieldConfig"]["defaults"].get("unit"):
            found.append(f"{place}: no description or no unit")
        for asked in [panel, *panel["targets"]]:
            if asked["datasource"] != {"type": "prometheus", "uid": "${datasource}"}:
                found.append(f"{place}: asks a data source of its own")
    return found


def rule_problems(rules: list[dict[str, Any]], tests: str) -> list[str]:
    """Whether every alert says what it should, and is tested."""
    found = []
    tested = set(re.findall(r"Mokv\w+", tests))
    for rule in rules:
        lacks = [word for word in ("summary", "description", "next") if not rule["annotations"].get(word)]
        if lacks or rule["labels"].get("severity") not in {"critical", "warning"}:
            found.append(f"alert {rule['name']}: no {', '.join(lacks) or 'severity'}")
        if rule["name"] not in tested:
            found.append(f"alert {rule['name']}: not in alerts.test.yaml")
    found += [f"alerts.test.yaml: there is no {name}" for name in sorted(tested - {rule["name"] for rule in rules})]
    return found


def raised(prometheus: Prometheus, rules: list[dict[str, Any]]) -> set[str]:
    """Alerts whose expressions are true now, however long they have to be."""
    return {rule["name"] for rule in rules if prometheus.query(rule["query"])}


def expect_raised(prometheus: Prometheus, rules: list[dict[str, Any]], names: set[str]) -> None:
    left = names

    def look() -> bool | None:
        nonlocal left
        left = names - raised(prometheus, rules)
        return None if left else True

    try:
        wait_for("alerts", look)
    except Failed:
        raise Failed(f"not raised although it should be: {', '.join(sorted(left))}") from None


def expect_calm(prometheus: Prometheus, rules: list[dict[str, Any]]) -> None:
    seen: set[str] = set()

    def look() -> bool | None:
        nonlocal seen
        seen = raised(prometheus, rules) - JUDGE_THE_MACHINE
        return None if seen else True

    try:
        wait_for("no alert", look)
    except Failed:
        raise Failed(f"a healthy cluster raises {', '.join(sorted(seen))}") from None
    firing = {
        alert["labels"]["alertname"] for alert in prometheus.ask("alerts")["alerts"] if alert["state"] == "firing"
    }
    if firing - JUDGE_THE_MACHINE:
        raise Failed(f"a healthy cluster fires {', '.join(sorted(firing))}")


def prove_teeth(prometheus: Prometheus, dashboard: str, rules: list[dict[str, Any]]) -> list[str]:
    """Mistakes that have to be noticed: in a copy of the dashboard, and in a copy of the rules."""
    found = []
    for right, wrong in [("mokv_raft_voters{", "mokv_raft_voter{"), ('role=\\"leader\\"', 'role=\\"leadr\\"'),
                         ("$__rate_interval", "$__rate_intervall"), ("sum by (method) (", "sum by (method) ((")]:  # fmt: skip
        queries = dashboard_queries(json.loads(dashboard.replace(right, wrong)))
        if right not in dashboard or not any(problem_of(prometheus, query) for query in queries):
            found.append(f"this check: does not notice '{wrong}' in the dashboard")
    wrong_rules = json.loads(json.dumps(rules).replace("mokv_raft_has_leader", "mokv_raft_has_leadr"))
    noticed = [query.place for query in alert_queries(wrong_rules) if problem_of(prometheus, query)]
    if noticed != ["alert MokvNoLeader"]:
        found.append(f"this check: a misspelt metric in the rules is noticed in {noticed}")
    return found


def check(prometheus: Prometheus, cluster: Cluster, deploy: Path) -> list[str]:
    """Everything that is wrong."""
    text = (deploy / "grafana/mokv.json").read_text()
    dashboard = json.loads(text)
    rules = prometheus.alerts()
    queries = dashboard_queries(dashboard) + alert_queries(rules)
    found = layout_problems(dashboard) + rule_problems(rules, (deploy / "prometheus/alerts.test.yaml").read_text())
    wrong = problems_in_the_end(prometheus, queries)
    print(f"{len(queries) - len(wrong)} of {len(queries)} queries of the dashboard and of {len(rules)} alerts stand")
    found += wrong + prove_teeth(prometheus, text, rules)
    if wrong:
        # Alerts that ask for what is not there cannot be relied on below.
        return found

    expect_calm(prometheus, rules)
    print("a healthy cluster raises no alert")
    cluster.end_load()
    leader = wait_for("a leader", cluster.leader)
    cluster.kill(next(node for node in cluster.nodes if node is not leader))
    names = {"MokvNodeDown", "MokvNoQuorumMargin", "MokvDeadMember"}
    expect_raised(prometheus, rules, names)
    print(f"with one node of three killed: {', '.join(sorted(names))}")
    cluster.kill(wait_for("a leader", cluster.leader))
    names |= {"MokvNoLeader", "MokvQuorumLost", "MokvNodeNotReady"}
    expect_raised(prometheus, rules, names)
    print(f"with two killed: {', '.join(sorted(names))}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", type=Path, required=True, help="mokv")
    parser.add_argument("--prometheus", required=True, help="the program")
    parser.add_argument("--deploy", type=Path, required=True, help="the folder with what is checked")
    parser.add_argument("--scratch", type=Path, required=True, help="an empty folder")
    parser.add_argument("--compose", type=Path, help="compose.yaml as JSON")
    given = parser.parse_args()
    found = compose.problems(given.compose, given.deploy, given.binary) if given.compose else []
    cluster = Cluster(given.binary, given.scratch)
    try:
        cluster.start()
        cluster.take_snapshot()
        prometheus = Prometheus(given.prometheus, given.deploy, given.scratch, cluster.nodes)
        try:
            prometheus.wait_until_scraped()
            found += check(prometheus, cluster, given.deploy)
        finally:
            stop(prometheus.process)
    except Failed as failure:
        found.append(str(failure))
    finally:
        cluster.stop()
    for problem in found:
        print(f"FAIL {problem}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
