//! The lines of a golden trace: their order, their form, and the comparison with the file. Pure but for the file.
//!
//! A network whose packets all take equally long makes a run proceed in steps. What is sent within one step has no
//! order that means anything, because none of it can be the cause of another node's message; it is sorted by name, so
//! that the scheduler's choices do not show.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// If set, files are written instead of compared.
const UPDATE: &str = "MOKV_UPDATE";
/// How files are written.
const COMMAND: &str = "MOKV_UPDATE=1 cargo test --features sim --test sim -- golden";
/// How the step begins in which a node applies an entry; the entry's log id follows.
pub const APPLIES: &str = "applies ";
/// What begins the lines above the trace, which people write.
const PROSE: &str = "#";

/// How a message travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Channel {
    /// A remark of the scenario, which sends nothing.
    Note,
    /// A step of one node, which sends nothing.
    Step,
    /// A datagram.
    Gossip,
    /// A peer's connection for votes and heartbeats.
    Control,
    /// A peer's connection for log entries.
    Log,
    /// A peer's connection for snapshots.
    Snapshot,
    /// A peer's connection for what clients ask.
    Forward,
    /// A client's connection.
    Client,
}

impl Channel {
    fn word(self) -> &'static str {
        match self {
            Channel::Note | Channel::Step => "",
            Channel::Gossip => "gossip",
            Channel::Control => "control",
            Channel::Log => "log",
            Channel::Snapshot => "snapshot",
            Channel::Forward => "forward",
            Channel::Client => "client",
        }
    }
}

/// Kinds of messages that a trace may leave out, because they come at any time or say nothing new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routine {
    /// A claim that the receiver has already heard from this sender.
    Claim,
    /// A handshake between two nodes of which the same one has dialed before.
    Handshake,
    /// A heartbeat that tells of no newer committed entry, and the answer to any.
    Heartbeat,
    /// An append without entries that tells of a newer committed entry. It is sent if no append is ready that says so, too:
    /// in the same step as such an append it is never shown.
    Notice,
    /// Part of the periodic comparison of states.
    Digests,
    /// What its sender has told or asked before, the answer to it, and the answer to a notice.
    Again,
}

/// A message as it is sent, or a step of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Simulated time since any fixed instant.
    pub at: Duration,
    /// The sender's name; the node's for a step; empty for a note.
    pub from: String,
    /// The receiver's name; empty for a step and a note.
    pub to: String,
    /// How it travels.
    pub channel: Channel,
    /// What it says.
    pub words: String,
    /// `None`: no trace leaves it out.
    pub routine: Option<Routine>,
}

impl Event {
    fn line(&self) -> String {
        let Event { from, to, channel, words, .. } = self;
        match channel {
            Channel::Note => format!("\n-- {words}"),
            Channel::Step => format!("{from:<8}  {:<8}  {words}", ""),
            _ => format!("{:<8}  {:<8}  {words}", format!("{from} -> {to}"), channel.word()),
        }
    }
}

/// The lines of a trace. Two messages of different nodes less than `step` apart are not cause and effect.
pub fn lines(mut events: Vec<Event>, step: Duration) -> String {
    events.sort_by_key(|event| event.at);
    let mut text = String::new();
    let mut rest = &mut events[..];
    while let Some(first) = rest.first() {
        let begin = first.at;
        let is_note = first.channel == Channel::Note;
        let together = |event: &Event| !is_note && event.channel != Channel::Note && event.at - begin < step;
        let length = rest.iter().skip(1).take_while(|event| together(event)).count() + 1;
        let (now, later) = rest.split_at_mut(length);
        // Stable: what one node sends on one channel to another stays in order.
        now.sort_by(|one, other| {
            (&one.from, &one.to, one.channel).cmp(&(&other.from, &other.to, other.channel))
        });
        let shown: Vec<&Event> = now.iter().filter(|event| !is_said_by_another(event, now)).collect();
        merged(&shown).iter().for_each(|event| text += &format!("{}\n", event.line()));
        rest = later;
    }
    text
}

fn is_said_by_another(event: &Event, step: &[Event]) -> bool {
    let says_it = |other: &Event| {
        (&other.from, &other.to, other.channel) == (&event.from, &event.to, event.channel)
            && other.routine != Some(Routine::Notice)
    };
    event.routine == Some(Routine::Notice) && step.iter().any(says_it)
}

/// What one node applies at a time is one line.
fn merged(events: &[&Event]) -> Vec<Event> {
    let mut merged: Vec<Event> = Vec::new();
    for &event in events {
        match merged.last_mut() {
            Some(before) if before.from == event.from && is_apply(before) && is_apply(event) => {
                let first = before.words.split(" to ").next().unwrap_or_default();
                before.words = format!("{first} to {}", &event.words[APPLIES.len()..]);
            }
            _ => merged.push(event.clone()),
        }
    }
    merged
}

fn is_apply(event: &Event) -> bool {
    event.channel == Channel::Step && event.words.starts_with(APPLIES)
}

/// Compares a trace with `sim/golden/NAME.txt`, or writes it there.
///
/// # Errors
/// The difference as a diff, with the command that accepts it.
pub fn compare(name: &str, trace: &str) -> Result<(), String> {
    let file = file(name);
    let golden = std::fs::read_to_string(&file).unwrap_or_default();
    let whole = with_prose_of(&golden, trace);
    if std::env::var_os(UPDATE).is_some() {
        return std::fs::write(&file, whole)
            .map_err(|error| format!("cannot write {}: {error}", file.display()));
    }
    if golden == whole {
        return Ok(());
    }
    let diff = similar::TextDiff::from_lines(&golden, &whole);
    let diff = diff.unified_diff().header(&format!("sim/golden/{name}.txt"), "what was sent").to_string();
    Err(format!("the messages differ from sim/golden/{name}.txt; if that is meant: {COMMAND}\n{diff}"))
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(format!("{name}.txt"))
}

/// The file with its present prose and this trace.
fn with_prose_of(golden: &str, trace: &str) -> String {
    let prose = golden.split_inclusive('\n').take_while(|line| line.starts_with(PROSE));
    format!("{}\n{}\n", prose.collect::<String>(), trace.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at: u64, from: &str, to: &str, channel: Channel, words: &str) -> Event {
        Event {
            at: Duration::from_millis(at),
            from: from.into(),
            to: to.into(),
            channel,
            words: words.into(),
            routine: None,
        }
    }

    #[test]
    fn what_is_sent_in_one_step_is_sorted_and_what_follows_from_it_comes_later() {
        let sent = [
            event(0, "", "", Channel::Note, "begin"),
            event(0, "n1", "n3", Channel::Log, "first"),
            event(1, "n1", "n2", Channel::Log, "one"),
            event(2, "n1", "n2", Channel::Log, "two"),
            event(10, "n2", "n1", Channel::Log, "answer"),
            event(10, "n2", "", Channel::Step, "applies 5/7"),
        ];
        let expected = "\n-- begin\n\
                        n1 -> n2  log       one\n\
                        n1 -> n2  log       two\n\
                        n1 -> n3  log       first\n\
                        n2                  applies 5/7\n\
                        n2 -> n1  log       answer\n";
        let step = Duration::from_millis(5);
        assert_eq!(lines(sent.to_vec(), step), expected);
        let [note, first, one, two, answer, applies] = sent;
        assert_eq!(lines(vec![note, one, first, two, applies, answer], step), expected);
    }

    #[test]
    fn what_a_node_applies_at_once_is_one_line() {
        let apply = |at, from, what| event(at, from, "", Channel::Step, &format!("{APPLIES}{what}"));
        let applied = [
            apply(0, "n2", "5/7"),
            apply(0, "n1", "5/6"),
            apply(1, "n2", "5/8"),
            apply(2, "n2", "6/9"),
            apply(20, "n2", "6/10"),
        ];
        let expected = "n1                  applies 5/6\n\
                        n2                  applies 5/7 to 6/9\n\
                        n2                  applies 6/10\n";
        assert_eq!(lines(applied.to_vec(), Duration::from_millis(5)), expected);
    }

    #[test]
    fn a_notice_is_not_shown_beside_an_append_that_says_the_same() {
        let notice =
            |at, to| Event { routine: Some(Routine::Notice), ..event(at, "n1", to, Channel::Log, "notice") };
        let sent = [
            notice(0, "n2"),
            event(1, "n1", "n2", Channel::Log, "append"),
            notice(1, "n3"),
            notice(20, "n2"),
        ];
        let expected = "n1 -> n2  log       append\nn1 -> n3  log       notice\nn1 -> n2  log       notice\n";
        assert_eq!(lines(sent.to_vec(), Duration::from_millis(5)), expected);
    }

    #[test]
    fn an_update_keeps_the_prose_above_the_trace() {
        assert_eq!(
            with_prose_of("# How to read it.\n# A log id.\n\nold\n# not prose\n", "\nnew\n"),
            "# How to read it.\n# A log id.\n\nnew\n"
        );
        assert_eq!(with_prose_of("", "new\n"), "\nnew\n");
    }

    #[test]
    fn the_files_have_prose_and_a_trace() {
        for name in ["join", "linearizable-read"] {
            let text = std::fs::read_to_string(file(name)).unwrap();
            assert!(text.starts_with(PROSE) && text.contains("\n\n"), "{name}");
        }
    }
}
