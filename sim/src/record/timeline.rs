//! The timeline of a run: what happened when, as data, for the text that people read and the picture that shows it.
//!
//! An event with words is printed; one without is only drawn. Pure: depends on neither cluster nor simulator, and which
//! events matter for a failure is decided from the words of its findings alone.

use serde::{Deserialize, Serialize};

use crate::checkers::Finding;
use crate::evidence::history::{Nanos, Operation, Outcome, Seconds};

/// An event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Simulated nanoseconds since the run began.
    pub at: Nanos,
    /// The node that it happened to, if any.
    pub node: Option<String>,
    /// What.
    pub what: What,
    /// A description; empty: not worth printing.
    pub words: String,
}

/// The kinds of events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum What {
    /// Described only by its words.
    Told,
    /// A process started, ended, or is paused.
    Power {
        /// The state of the process now.
        now: Power,
    },
    /// A node's status changed.
    Status {
        /// leader, follower, ...
        role: String,
        /// Its term.
        term: u64,
        /// The commit index, as far as the node has it.
        committed: u64,
        /// The index of the last applied entry.
        applied: u64,
    },
    /// A fault begins.
    Begins {
        /// The number of the injection.
        injection: u32,
        /// The kind of fault.
        fault: String,
    },
    /// A fault ends.
    Ends {
        /// The number of the injection.
        injection: u32,
    },
    /// An action of an injection.
    Injection {
        /// Its number.
        injection: u32,
    },
    /// A link between two hosts was cut in one direction, or restored.
    Link {
        /// The sending host.
        from: String,
        /// The receiving host.
        to: String,
        /// `true`: messages no longer arrive.
        cut: bool,
    },
    /// A snapshot replaced a node's state.
    Snapshot,
    /// Code has reached a marker.
    Reached {
        /// The marker is reached often in this run.
        often: bool,
    },
    /// A checker has a finding.
    Finding,
}

/// The state of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Power {
    /// It runs.
    Up,
    /// There is no process.
    Down,
    /// It is paused.
    Paused,
}

impl Event {
    /// Whether the event is printed.
    pub fn is_told(&self) -> bool {
        !self.words.is_empty() && self.what != What::Reached { often: true }
    }

    /// The event as a line of the printed timeline.
    pub fn line(&self) -> String {
        format!("{}  {}", Seconds(self.at), self.words)
    }
}

/// A client's operation, for the picture.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bar {
    /// The client's number.
    pub client: u32,
    /// Its key, or prefix.
    pub key: String,
    /// When it was sent.
    pub from: Nanos,
    /// When it ended; `None`: the client received no answer.
    pub to: Option<Nanos>,
    /// ok, failed, unknown.
    pub outcome: String,
    /// The whole operation in words.
    pub words: String,
    /// A finding names it as evidence.
    pub evidence: bool,
}

/// A checker's finding, and when what it describes happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The instant.
    pub at: Nanos,
    /// The finding in words.
    pub words: String,
}

/// A whole run, for the picture.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Timeline {
    /// Simulated time from beginning to end.
    pub length: Nanos,
    /// The nodes' names.
    pub nodes: Vec<String>,
    /// The events, in order.
    pub events: Vec<Event>,
    /// The clients' operations.
    pub bars: Vec<Bar>,
    /// The findings.
    pub marks: Vec<Mark>,
}

impl Timeline {
    /// Builds a timeline from the parts of a record.
    pub fn new(
        length: Nanos,
        nodes: Vec<String>,
        events: Vec<Event>,
        operations: &[Operation],
        marks: Vec<Mark>,
    ) -> Timeline {
        let bar = |operation: &Operation| {
            let words = operation.to_string();
            Bar {
                client: operation.client,
                key: operation.key.clone(),
                from: operation.invoked,
                to: operation.returned,
                outcome: outcome(&operation.outcome).to_owned(),
                evidence: marks.iter().any(|mark| mark.words.contains(&words)),
                words,
            }
        };
        let bars = operations.iter().map(bar).collect();
        Timeline { length, nodes, events, bars, marks }
    }
}

fn outcome(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Ok(_) => "ok",
        Outcome::Failed => "failed",
        Outcome::Unknown => "unknown",
    }
}

/// When what a finding describes had happened: the end of the last operation that it names, or `found_at` without one.
pub fn instant(finding: &Finding, operations: &[Operation], found_at: Nanos) -> Nanos {
    let shown = operations.iter().filter(|operation| finding.words.contains(&operation.to_string()));
    shown.map(|operation| operation.returned.unwrap_or(operation.invoked)).max().unwrap_or(found_at)
}

/// Most lines about the nodes that findings name.
const MOST_CONCERNED: usize = 36;
/// Most lines about the keys that findings name.
const MOST_OF_KEYS: usize = 12;
/// Only the names in this many findings count: later ones are mostly consequences.
const FIRST_FINDINGS: usize = 5;
/// Number of last lines that are shown, whatever they are about.
const LAST: usize = 12;

/// The events that matter for the findings, in order, with a line of dots where some are left out: those of the nodes
/// that the findings name (of all, if they name none), the writes of the keys they name, and the very last.
pub fn that_matter(timeline: &Timeline) -> Vec<String> {
    let marks = &timeline.marks[..timeline.marks.len().min(FIRST_FINDINGS)];
    let until = marks.iter().map(|mark| mark.at).max().unwrap_or(timeline.length);
    let named = |word: &str| marks.iter().any(|mark| mentions(&mark.words, word));
    let nodes: Vec<&String> = timeline.nodes.iter().filter(|node| named(node)).collect();
    let told: Vec<&Event> = timeline.events.iter().filter(|event| event.is_told()).collect();
    let concerns = |event: &Event| {
        let of_node = |node: &&String| event.node.as_ref() == Some(node) || mentions(&event.words, node);
        let of_all = !timeline
            .nodes
            .iter()
            .any(|node| event.node.as_ref() == Some(node) || mentions(&event.words, node));
        nodes.is_empty() || of_all || nodes.iter().any(of_node)
    };
    let mut chosen: Vec<(Nanos, usize, String)> = Vec::new();
    let concerned: Vec<usize> =
        (0..told.len()).filter(|place| told[*place].at <= until && concerns(told[*place])).collect();
    let last = told.len().saturating_sub(LAST)..told.len();
    let mut places: Vec<usize> = concerned[concerned.len().saturating_sub(MOST_CONCERNED)..].to_vec();
    places.extend(last);
    places.sort_unstable();
    places.dedup();
    chosen.extend(places.into_iter().map(|place| (told[place].at, place, told[place].line())));

    let writes = |bar: &&Bar| bar.from <= until && !bar.evidence && named(&bar.key) && is_write(bar);
    let of_keys: Vec<&Bar> = timeline.bars.iter().filter(writes).collect();
    let of_keys = &of_keys[of_keys.len().saturating_sub(MOST_OF_KEYS)..];
    // Writes are shown between events, and are not counted in gaps.
    chosen.extend(of_keys.iter().map(|bar| (bar.from, usize::MAX, bar.words.clone())));
    chosen.sort_by_key(|one| (one.0, one.1));
    with_gaps(chosen)
}

fn is_write(bar: &Bar) -> bool {
    [" sets ", " deletes "].iter().any(|verb| bar.words.contains(verb))
}

fn with_gaps(chosen: Vec<(Nanos, usize, String)>) -> Vec<String> {
    let mut lines = Vec::new();
    let mut expected = 0;
    for (_, place, line) in chosen {
        if place != usize::MAX {
            if place > expected {
                lines.push(format!("         ... {} events about other things", place - expected));
            }
            expected = place + 1;
        }
        lines.push(line);
    }
    lines
}

/// Whether a text contains a name as a whole word: `n1` occurs in "n1's disk" and not in "n12".
pub fn mentions(text: &str, name: &str) -> bool {
    let is_part = |character: char| character.is_alphanumeric() || "/._-".contains(character);
    !name.is_empty()
        && text.match_indices(name).any(|(place, _)| {
            let before = text[..place].chars().next_back();
            let mut after = text[place + name.len()..].chars();
            let follows = after.next();
            // A full stop at the end of a sentence is not part of the name.
            let ends = follows.is_none_or(|character| {
                !is_part(character) || (character == '.' && after.next().is_none_or(char::is_whitespace))
            });
            before.is_none_or(|character| !is_part(character)) && ends
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::history::{Answer, Call};

    fn event(at: Nanos, words: &str) -> Event {
        Event { at, node: None, what: What::Told, words: words.into() }
    }

    fn write(at: Nanos, key: &str, value: u64) -> Operation {
        let call = Call::Set { value, if_revision: None };
        let outcome = Outcome::Ok(Answer::Written { revision: value });
        Operation { client: 1, key: key.into(), call, invoked: at, returned: Some(at + 5), outcome }
    }

    #[test]
    fn names_are_whole_words() {
        assert!(
            mentions("n1's disk is empty", "n1") && mentions("it is n1", "n1") && mentions("to n1.", "n1")
        );
        assert!(!mentions("n12 stops", "n1") && !mentions("key/n1 is gone", "n1"));
        assert!(mentions("sets key/00.1 to v7", "key/00.1") && !mentions("sets key/00.12 to v7", "key/00.1"));
    }

    #[test]
    fn a_finding_is_placed_where_its_evidence_ended() {
        let operations = [write(10, "a", 1), write(20, "a", 2), write(90, "b", 3)];
        let finding = Finding::violation("order", format!("wrong:\n    {}", operations[1]));
        assert_eq!(instant(&finding, &operations, 100), 25);
        assert_eq!(instant(&Finding::violation("order", "nothing shown"), &operations, 100), 100);
    }

    #[test]
    fn of_a_long_story_only_what_concerns_the_finding_is_told() {
        let mut events = vec![event(0, "n1 is killed"), event(1, "all links are whole")];
        events.extend((2..200).map(|at| event(at, "n2 goes on")));
        events.push(event(200, "the end"));
        let operations = [write(5, "k", 1), write(6, "other", 2), write(7, "k", 3)];
        let words = format!("n1 lost a write of k\n    {}", operations[2]);
        let marks = vec![Mark { at: 199, words }];
        let timeline = Timeline::new(200, vec!["n1".into(), "n2".into()], events, &operations, marks);
        let lines = that_matter(&timeline).join("\n");
        assert!(lines.contains("n1 is killed") && lines.contains("all links are whole"), "{lines}");
        assert!(lines.contains("sets k to v1"), "{lines}");
        assert!(!lines.contains("sets other"), "{lines}");
        assert!(!lines.contains("sets k to v3"), "the finding shows it already: {lines}");
        assert!(lines.contains("events about other things") && lines.contains("the end"), "{lines}");
    }
}
