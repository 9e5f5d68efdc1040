//! What chaos lets meet: a node in a role, a situation that the cluster is in, a fault. Pure.
//!
//! Faults that are aimed by hand hit what their author thought of. Here all three are drawn, each from a whole list, so that
//! a sweep covers the product; the table says how often each was really met, and what never was.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use crate::dice::Dice;

/// Writes an enumeration, its list and its names off one table.
macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident, $word:literal;)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$doc])* $variant,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &[$name] = &[$($name::$variant),*];

            /// As people call it.
            pub fn word(self) -> &'static str {
                match self {
                    $($name::$variant => $word,)*
                }
            }
        }
    };
}

words! {
    /// What the node is that is struck.
    Role {
        /// It leads.
        Leader, "leader";
        /// It votes and follows.
        Follower, "follower";
        /// It learns, and is to vote soon.
        Learner, "learner";
        /// It votes, and its removal is asked for.
        Leaver, "leaver";
        /// It has just been started, and recovers.
        Starting, "starting";
        /// Its state is doubted, its log is not.
        Doubted, "doubted";
    }
}

words! {
    /// What goes on in the cluster meanwhile.
    Situation {
        /// Nothing but clients.
        Quiet, "quiet";
        /// Nobody leads: the leader stands still.
        Election, "election";
        /// Leadership is handed over.
        Transfer, "transfer";
        /// A node joins.
        Joining, "joining";
        /// A snapshot is written.
        Snapshot, "snapshot";
        /// Another node restarts.
        Restart, "restart";
        /// Another node comes back from where it heard nothing.
        Laggard, "laggard";
    }
}

words! {
    /// What happens to the node.
    Blow {
        /// Its process dies.
        Kill, "kill";
        /// Its machine loses power.
        PowerLoss, "power";
        /// It stands still.
        Pause, "pause";
        /// It hears nobody and nobody hears it.
        Isolation, "alone";
        /// It hears nobody.
        Deafness, "deaf";
        /// Nobody hears it.
        Muteness, "mute";
        /// Its disk is slow.
        SlowDisk, "slow";
        /// A sync of its disk fails.
        FailedSync, "sync";
        /// All its connections are reset.
        Reset, "reset";
        /// It is asked to stop.
        Stop, "stop";
    }
}

/// One meeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Encounter {
    /// Who is struck.
    pub role: Role,
    /// Meanwhile.
    pub situation: Situation,
    /// By what.
    pub blow: Blow,
}

impl Encounter {
    /// Each as likely as every other one.
    pub fn draw(dice: &mut Dice) -> Encounter {
        Encounter {
            role: *dice.one_of(Role::ALL),
            situation: *dice.one_of(Situation::ALL),
            blow: *dice.one_of(Blow::ALL),
        }
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Encounter> {
        Role::ALL.iter().flat_map(|&role| {
            let of_role = move |&situation: &Situation| {
                Blow::ALL.iter().map(move |&blow| Encounter { role, situation, blow })
            };
            Situation::ALL.iter().flat_map(of_role)
        })
    }

    /// The name under which it is counted when it is met, and when the same is met again in the same strike.
    pub fn name(self, again: bool) -> String {
        format!("{}{self}", if again { AGAIN } else { "" })
    }
}

impl fmt::Display for Encounter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.role.word(), self.situation.word(), self.blow.word())
    }
}

const AGAIN: &str = "again ";
const PAIR: &str = "pair ";

/// Two blows at a time, to nodes of these roles. In either order it is the same.
pub fn pair(one: (Role, Blow), other: (Role, Blow)) -> String {
    let (first, second) = (one.min(other), one.max(other));
    let words = |(role, blow): (Role, Blow)| format!("{}/{}", role.word(), blow.word());
    format!("{PAIR}{} + {}", words(first), words(second))
}

/// The roles that a node has by itself, so that it can be the second one of a pair.
pub const BESIDE: [Role; 2] = [Role::Leader, Role::Follower];

/// All pairs. There is one leader at most.
pub fn pairs() -> impl Iterator<Item = String> {
    let blows = |role: Role| Blow::ALL.iter().map(move |&blow| (role, blow));
    let mut all: Vec<String> = Vec::new();
    for (one, beside) in Role::ALL.iter().flat_map(|&one| BESIDE.map(|beside| (one, beside))) {
        if one == Role::Leader && beside == Role::Leader {
            continue;
        }
        all.extend(blows(one).flat_map(|one| blows(beside).map(move |other| pair(one, other))));
    }
    all.sort();
    all.dedup();
    all.into_iter()
}

/// The table: a row for each role and situation, a column for each blow; then what was never met.
pub fn table(counts: &BTreeMap<String, u64>) -> String {
    let count = |name: &str| counts.get(name).copied().unwrap_or(0);
    let mut text = String::new();
    let _ = write!(text, "{:<10}{:<10}", "role", "situation");
    for blow in Blow::ALL {
        let _ = write!(text, "{:>7}", blow.word());
    }
    for encounter in Encounter::all() {
        if encounter.blow == Blow::ALL[0] {
            let _ = write!(text, "\n{:<10}{:<10}", encounter.role.word(), encounter.situation.word());
        }
        let _ = write!(text, "{:>7}", count(&encounter.name(false)));
    }
    text.push('\n');
    let all: Vec<String> = Encounter::all().map(|encounter| encounter.name(false)).collect();
    let again: Vec<String> = Encounter::all().map(|encounter| encounter.name(true)).collect();
    never(&mut text, "encounters", &all, counts);
    never(&mut text, "encounters twice in a row", &again, counts);
    never(&mut text, "pairs", &pairs().collect::<Vec<_>>(), counts);
    text
}

/// How many of these were met, and which never.
fn never(text: &mut String, what: &str, all: &[String], counts: &BTreeMap<String, u64>) {
    let missing: Vec<&str> =
        all.iter().filter(|name| !counts.contains_key(*name)).map(|name| shortened(name)).collect();
    let met: u64 = all.iter().filter_map(|name| counts.get(name)).sum();
    let _ = writeln!(text, "{what}: {} of {} met, {met} times", all.len() - missing.len(), all.len());
    if !missing.is_empty() {
        let _ = writeln!(text, "  never: {}", missing.join(", "));
    }
}

fn shortened(name: &str) -> &str {
    name.strip_prefix(AGAIN).or(name.strip_prefix(PAIR)).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_encounter_is_drawn_and_has_a_name_of_its_own() {
        let all: BTreeSet<String> = Encounter::all().map(|encounter| encounter.name(false)).collect();
        assert_eq!(all.len(), Role::ALL.len() * Situation::ALL.len() * Blow::ALL.len());
        let mut dice = Dice::new(1, "encounters");
        let drawn: BTreeSet<String> = (0..10_000).map(|_| Encounter::draw(&mut dice).name(false)).collect();
        assert_eq!(drawn, all);
    }

    #[test]
    fn a_pair_is_the_same_in_either_order() {
        let (one, other) = ((Role::Leader, Blow::Kill), (Role::Follower, Blow::Pause));
        assert_eq!(pair(one, other), pair(other, one));
        let all: BTreeSet<String> = pairs().collect();
        assert!(all.contains(&pair(one, other)));
        assert!(!all.contains(&pair(one, (Role::Leader, Blow::Pause))), "nobody leads beside a leader");
    }

    #[test]
    fn the_table_counts_what_was_met_and_names_what_never_was() {
        let met = Encounter { role: Role::Learner, situation: Situation::Transfer, blow: Blow::Kill };
        let mut counts: BTreeMap<String, u64> = Encounter::all().map(|one| (one.name(false), 2)).collect();
        counts.insert(met.name(false), 7);
        counts.remove("doubted/quiet/stop");
        let text = table(&counts);
        let row = text.lines().find(|line| line.starts_with("learner   transfer")).expect("there is a row");
        assert_eq!(row.split_whitespace().nth(2), Some("7"), "{row}");
        assert!(text.contains("never: doubted/quiet/stop\n"), "{text}");
    }
}
