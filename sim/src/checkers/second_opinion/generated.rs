//! Histories of a correct store: one copy, every operation applied at one instant between call and return.

use std::collections::BTreeMap;

use crate::evidence::history::{Answer, Call, KeyState, Nanos, Operation, Outcome};
use crate::world::dice::Dice;

/// In percent: sets, conditional sets, deletes, conditional deletes, lists; the others are gets.
const SETS: u64 = 30;
const SETS_IF: u64 = 45;
const DELETES: u64 = 53;
const DELETES_IF: u64 = 58;
const LISTS: u64 = 62;

/// A history with this many operations and keys.
pub fn history(seed: u64, length: u64, keys: u64) -> Vec<Operation> {
    let mut dice = Dice::new(seed, "honest store");
    let mut planned: Vec<(Nanos, Nanos, Nanos, u64)> = (1..=length)
        .map(|value| {
            let invoked = dice.within(0..length * 4);
            let applied = invoked + dice.within(0..20);
            (applied, invoked, applied + dice.within(0..20), value)
        })
        .collect();
    planned.sort_unstable();
    let mut store = Store::default();
    let mut operations: Vec<Operation> = planned
        .into_iter()
        .map(|(_, invoked, returned, value)| {
            let key = format!("k{}", dice.within(0..keys));
            let present = store.held.get(&key).map_or(0, |entry| entry.mod_revision);
            let condition = match dice.within(0..4) {
                0 => 0,
                1 => present.saturating_sub(1),
                _ => present,
            };
            let call = match dice.within(0..100) {
                0..SETS => Call::Set { value, if_revision: None },
                SETS..SETS_IF => Call::Set { value, if_revision: Some(condition) },
                SETS_IF..DELETES => Call::Delete { if_revision: None },
                DELETES..DELETES_IF => Call::Delete { if_revision: Some(condition) },
                DELETES_IF..LISTS => Call::List { stale: false },
                _ => Call::Get { stale: false },
            };
            let key = if matches!(call, Call::List { .. }) { "k".to_owned() } else { key };
            let writes = matches!(call, Call::Set { .. } | Call::Delete { .. });
            let outcome = match dice.within(0..100) {
                // Not executed, and the client received that answer.
                0..3 => Outcome::Failed,
                // Not executed, or executed and the answer lost.
                3..5 if writes => Outcome::Unknown,
                5..9 if writes => {
                    store.apply(&key, call);
                    Outcome::Unknown
                }
                _ => Outcome::Ok(store.apply(&key, call)),
            };
            Operation { client: value as u32, key, call, invoked, returned: Some(returned), outcome }
        })
        .collect();
    operations.sort_by_key(|operation| operation.invoked);
    operations
}

#[derive(Default)]
struct Store {
    revision: u64,
    held: BTreeMap<String, KeyState>,
}

impl Store {
    fn apply(&mut self, key: &str, call: Call) -> Answer {
        let present = self.held.get(key).copied();
        let present_revision = present.map_or(0, |entry| entry.mod_revision);
        match call {
            Call::Set { if_revision: Some(at), .. } | Call::Delete { if_revision: Some(at) }
                if at != present_revision =>
            {
                Answer::ConditionFailed { present_revision }
            }
            Call::Set { value, .. } => {
                self.revision += 1;
                let entry = KeyState {
                    value,
                    create_revision: present.map_or(self.revision, |entry| entry.create_revision),
                    mod_revision: self.revision,
                    version: present.map_or(1, |entry| entry.version + 1),
                };
                self.held.insert(key.to_owned(), entry);
                Answer::Written { revision: self.revision }
            }
            Call::Delete { .. } => {
                self.revision += u64::from(present.is_some());
                self.held.remove(key);
                Answer::Deleted { revision: self.revision, existed: present.is_some() }
            }
            Call::Get { .. } => Answer::Read { revision: self.revision, entry: present },
            Call::List { .. } => {
                let found = self.held.iter().filter(|(held, _)| held.starts_with(key));
                let entries = found.map(|(key, entry)| (key.clone(), *entry)).collect();
                Answer::Listed { revision: self.revision, entries }
            }
            Call::GetAt { .. } | Call::ListAt { .. } | Call::Versions(_) | Call::Changes(_) => {
                unreachable!("no generated client reads the past")
            }
        }
    }
}
