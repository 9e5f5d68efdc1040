//! Operations for the tests of checkers. A value is its own revision, and value 0 means absent.

use crate::evidence::history::{Answer, Call, KeyState, Nanos, Operation, Outcome};

/// An operation of client 1 on the key `k`.
pub fn operation(invoked: Nanos, returned: Nanos, call: Call, outcome: Outcome) -> Operation {
    Operation { client: 1, key: "k".into(), call, invoked, returned: Some(returned), outcome }
}

/// The state of a key with this value.
pub fn entry(value: u64) -> KeyState {
    KeyState { value, create_revision: 1, mod_revision: value, version: 1 }
}

/// Writes a value.
pub fn set(invoked: Nanos, returned: Nanos, value: u64) -> Operation {
    let call = Call::Set { value, if_revision: None };
    operation(invoked, returned, call, Outcome::Ok(Answer::Written { revision: value }))
}

/// Writes a value if the key is at a revision. `present`: the condition did not hold, and the key was at this revision.
pub fn set_if(invoked: Nanos, returned: Nanos, value: u64, at: u64, present: Option<u64>) -> Operation {
    let answer = match present {
        Some(present_revision) => Answer::ConditionFailed { present_revision },
        None => Answer::Written { revision: value },
    };
    operation(invoked, returned, Call::Set { value, if_revision: Some(at) }, Outcome::Ok(answer))
}

/// Deletes the key.
pub fn delete(invoked: Nanos, returned: Nanos, existed: bool) -> Operation {
    let answer = Answer::Deleted { revision: 0, existed };
    operation(invoked, returned, Call::Delete { if_revision: None }, Outcome::Ok(answer))
}

/// Reads a value at its revision.
pub fn get(invoked: Nanos, returned: Nanos, value: u64) -> Operation {
    let answer = Answer::Read { revision: value, entry: (value > 0).then(|| entry(value)) };
    operation(invoked, returned, Call::Get { stale: false }, Outcome::Ok(answer))
}

/// Finds these values on these keys.
pub fn list(invoked: Nanos, returned: Nanos, revision: u64, found: &[(&str, u64)]) -> Operation {
    let entries = found.iter().map(|(key, value)| ((*key).to_owned(), entry(*value))).collect();
    let outcome = Outcome::Ok(Answer::Listed { revision, entries });
    let list = operation(invoked, returned, Call::List { stale: false }, outcome);
    Operation { key: String::new(), ..list }
}

/// The same operation with an unknown outcome.
pub fn in_doubt(operation: Operation) -> Operation {
    ended(operation, Outcome::Unknown)
}

/// The same operation with another outcome.
pub fn ended(operation: Operation, outcome: Outcome) -> Operation {
    Operation { outcome, ..operation }
}

/// The same operation of another client.
pub fn by(client: u32, operation: Operation) -> Operation {
    Operation { client, ..operation }
}

/// The same operation on another key.
pub fn on(key: &str, operation: Operation) -> Operation {
    Operation { key: key.into(), ..operation }
}

/// The same read, stale.
pub fn stale(operation: Operation) -> Operation {
    let call = match operation.call {
        Call::List { .. } => Call::List { stale: true },
        _ => Call::Get { stale: true },
    };
    Operation { call, ..operation }
}
