//! The encounters that chaos draws: a node in a role, a situation of the cluster, and a fault. Pure.
//!
//! Faults that are aimed by hand reach only what their author thought of. Here all three are drawn from complete lists,
//! so that a sweep covers the product; the table shows how often each encounter took place, and which never did.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use super::dice::Dice;

/// Generates an enumeration, its list and its names from one table.
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

            /// Its name in tables.
            pub fn word(self) -> &'static str {
                match self {
                    $($name::$variant => $word,)*
                }
            }
        }
    };
}

words! {
    /// The role of the node that receives the fault.
    Role {
        /// It leads.
        Leader, "leader";
        /// It votes and follows.
        Follower, "follower";
        /// It is a learner, and is to become a voter.
        Learner, "learner";
        /// It is a voter, and its removal was requested.
        Leaver, "leaver";
        /// It has just started, and is recovering.
        Starting, "starting";
        /// Its state is doubted, but not its log.
        Doubted, "doubted";
    }
}

words! {
    /// The situation of the cluster meanwhile.
    Situation {
        /// Only clients are active.
        Quiet, "quiet";
        /// There is no leader: the leader is paused.
        Election, "election";
        /// Leadership is being transferred.
        Transfer, "transfer";
        /// A node joins.
        Joining, "joining";
        /// A snapshot is being written.
        Snapshot, "snapshot";
        /// Another node is restarting.
        Restart, "restart";
        /// Another node returns from an isolation in which it received nothing.
        Laggard, "laggard";
    }
}

words! {
    /// The fault that is injected into the node.
    Fault {
        /// Its process is killed.
        Kill, "kill";
        /// Its machine loses power.
        PowerLoss, "power";
        /// It is paused.
        Pause, "pause";
        /// Its links are cut in both directions.
        Isolation, "alone";
        /// It receives nothing.
        Deafness, "deaf";
        /// Nothing that it sends arrives.
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

/// One encounter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Encounter {
    /// The role of the node.
    pub role: Role,
    /// The situation of the cluster.
    pub situation: Situation,
    /// The fault.
    pub fault: Fault,
}

impl Encounter {
    /// Draws an encounter, all equally likely.
    pub fn draw(dice: &mut Dice) -> Encounter {
        Encounter {
            role: *dice.one_of(Role::ALL),
            situation: *dice.one_of(Situation::ALL),
            fault: *dice.one_of(Fault::ALL),
        }
    }

    /// All possible encounters.
    pub fn all() -> impl Iterator<Item = Encounter> {
        Role::ALL.iter().flat_map(|&role| {
            let of_role = move |&situation: &Situation| {
                Fault::ALL.iter().map(move |&fault| Encounter { role, situation, fault })
            };
            Situation::ALL.iter().flat_map(of_role)
        })
    }

    /// Its name in counts. `again`: it took place for the second time within one injection.
    pub fn name(self, again: bool) -> String {
        format!("{}{self}", if again { AGAIN } else { "" })
    }
}

impl fmt::Display for Encounter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.role.word(), self.situation.word(), self.fault.word())
    }
}

const AGAIN: &str = "again ";
const PAIR: &str = "pair ";

/// The name of two faults at a time, to nodes of these roles; the order does not matter.
pub fn pair(one: (Role, Fault), other: (Role, Fault)) -> String {
    let (first, second) = (one.min(other), one.max(other));
    let words = |(role, fault): (Role, Fault)| format!("{}/{}", role.word(), fault.word());
    format!("{PAIR}{} + {}", words(first), words(second))
}

/// Roles that need no preparation, so that a node in one of them can be the second of a pair.
pub const BESIDE: [Role; 2] = [Role::Leader, Role::Follower];

/// The names of all pairs. There is at most one leader.
pub fn pairs() -> impl Iterator<Item = String> {
    let faults = |role: Role| Fault::ALL.iter().map(move |&fault| (role, fault));
    let mut all: Vec<String> = Vec::new();
    for (one, beside) in Role::ALL.iter().flat_map(|&one| BESIDE.map(|beside| (one, beside))) {
        if one == Role::Leader && beside == Role::Leader {
            continue;
        }
        all.extend(faults(one).flat_map(|one| faults(beside).map(move |other| pair(one, other))));
    }
    all.sort();
    all.dedup();
    all.into_iter()
}

/// The table: a row for each role and situation, a column for each fault; then the encounters that never took place.
pub fn table(counts: &BTreeMap<String, u64>) -> String {
    let count = |name: &str| counts.get(name).copied().unwrap_or(0);
    let mut text = String::new();
    let _ = write!(text, "{:<10}{:<10}", "role", "situation");
    for fault in Fault::ALL {
        let _ = write!(text, "{:>7}", fault.word());
    }
    for encounter in Encounter::all() {
        if encounter.fault == Fault::ALL[0] {
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

/// Counts how many of these took place, and lists those that never did.
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
        assert_eq!(all.len(), Role::ALL.len() * Situation::ALL.len() * Fault::ALL.len());
        let mut dice = Dice::new(1, "encounters");
        let drawn: BTreeSet<String> = (0..10_000).map(|_| Encounter::draw(&mut dice).name(false)).collect();
        assert_eq!(drawn, all);
    }

    #[test]
    fn a_pair_is_the_same_in_either_order() {
        let (one, other) = ((Role::Leader, Fault::Kill), (Role::Follower, Fault::Pause));
        assert_eq!(pair(one, other), pair(other, one));
        let all: BTreeSet<String> = pairs().collect();
        assert!(all.contains(&pair(one, other)));
        assert!(!all.contains(&pair(one, (Role::Leader, Fault::Pause))), "nobody leads beside a leader");
    }

    #[test]
    fn the_table_counts_what_was_met_and_names_what_never_was() {
        let met = Encounter { role: Role::Learner, situation: Situation::Transfer, fault: Fault::Kill };
        let mut counts: BTreeMap<String, u64> = Encounter::all().map(|one| (one.name(false), 2)).collect();
        counts.insert(met.name(false), 7);
        counts.remove("doubted/quiet/stop");
        let text = table(&counts);
        let row = text.lines().find(|line| line.starts_with("learner   transfer")).expect("there is a row");
        assert_eq!(row.split_whitespace().nth(2), Some("7"), "{row}");
        assert!(text.contains("never: doubted/quiet/stop\n"), "{text}");
    }
}
