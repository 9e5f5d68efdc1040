//! The clients' requests and answers, with their times: the evidence of most checkers.
//!
//! A failed operation had no effect; an unknown one may take effect at any time after it was sent, or never. The two
//! are never mixed up, and nothing here decides which it was: the client does, from what the library returned.

use std::fmt;

use super::applied_log::KeyChange;

/// Simulated nanoseconds since the run began.
pub type Nanos = u64;

/// One operation of one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// The client's number.
    pub client: u32,
    /// The key; for a list, the prefix.
    pub key: String,
    /// The request.
    pub call: Call,
    /// When it was sent.
    pub invoked: Nanos,
    /// When it ended; `None`: the client received no answer.
    pub returned: Option<Nanos>,
    /// How it ended.
    pub outcome: Outcome,
}

/// A request. Values are numbers, and each is written only once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Writes a value.
    Set {
        /// The value.
        value: u64,
        /// Only if the key's mod revision is this.
        if_revision: Option<u64>,
    },
    /// Deletes the key.
    Delete {
        /// Only if the key's mod revision is this.
        if_revision: Option<u64>,
    },
    /// Reads the key.
    Get {
        /// From any node's memory, without a read index.
        stale: bool,
    },
    /// Reads all keys of a prefix.
    List {
        /// From any node's memory, without a read index.
        stale: bool,
    },
    /// Reads the key as it was.
    GetAt {
        /// At this revision.
        revision: u64,
    },
    /// Reads all keys of a prefix as they were.
    ListAt {
        /// At this revision.
        revision: u64,
    },
    /// Reads the versions of the key.
    Versions(Span),
    /// Reads the changes of all keys of a prefix.
    Changes(Span),
}

/// Of which revisions versions or changes are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first one; `None`: the earliest that can be read.
    pub from: Option<u64>,
    /// The last one; `None`: the present one.
    pub to: Option<u64>,
    /// Most changes of a page, but for those that belong to the last one's revision.
    pub limit: Option<u64>,
    /// From any node's memory, without a read index.
    pub stale: bool,
}

impl Call {
    /// The revision that a read of the past asks for.
    pub fn at_revision(self) -> Option<u64> {
        match self {
            Call::GetAt { revision } | Call::ListAt { revision } => Some(revision),
            Call::Versions(span) | Call::Changes(span) => span.to,
            Call::Set { .. } | Call::Delete { .. } | Call::Get { .. } | Call::List { .. } => None,
        }
    }

    /// The earliest revision that it asks for, if it names one.
    pub fn from_revision(self) -> Option<u64> {
        match self {
            Call::Versions(span) | Call::Changes(span) => span.from,
            _ => self.at_revision(),
        }
    }

    /// Whether any node answers a read from its memory, which may be old.
    pub fn is_stale(self) -> bool {
        match self {
            Call::Get { stale } | Call::List { stale } => stale,
            Call::Versions(span) | Call::Changes(span) => span.stale,
            Call::Set { .. } | Call::Delete { .. } | Call::GetAt { .. } | Call::ListAt { .. } => false,
        }
    }
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It took effect.
    Ok(Answer),
    /// It certainly had no effect and never will.
    Failed,
    /// It may have had its effect, or may yet have it, or never.
    Unknown,
}

/// The answer that a client received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The value was written.
    Written {
        /// The revision it made.
        revision: u64,
    },
    /// The key is gone.
    Deleted {
        /// The store's revision after it.
        revision: u64,
        /// Whether it was there.
        existed: bool,
    },
    /// The condition did not hold; nothing was done.
    ConditionFailed {
        /// The key's mod revision; 0: absent.
        present_revision: u64,
    },
    /// The key's state.
    Read {
        /// The store's revision of the read.
        revision: u64,
        /// The state that was read; `None`: the key did not exist.
        entry: Option<KeyState>,
    },
    /// The states of the prefix's keys, in key order.
    Listed {
        /// The store's revision of the list.
        revision: u64,
        /// Keys and their states.
        entries: Vec<(String, KeyState)>,
    },
    /// Versions or changes, in the order in which they were made.
    Changed {
        /// The last revision that is covered.
        revision: u64,
        /// Page by page; the last one ends where the client stopped, if it has as many as a page has.
        pages: Vec<Vec<KeyChange>>,
    },
    /// A revision that is needed for the answer is compacted; nothing was read.
    Compacted,
}

/// The state of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyState {
    /// The value.
    pub value: u64,
    /// The revision that created the key.
    pub create_revision: u64,
    /// The revision that wrote the value.
    pub mod_revision: u64,
    /// Writes since the key was created.
    pub version: u64,
}

impl Operation {
    /// Whether it may have changed the store.
    pub fn may_have_written(&self) -> bool {
        let writes = matches!(self.call, Call::Set { .. } | Call::Delete { .. });
        writes && !matches!(self.outcome, Outcome::Failed | Outcome::Ok(Answer::ConditionFailed { .. }))
    }

    /// Whether it is a write of unknown outcome.
    pub fn is_doubtful_write(&self) -> bool {
        self.outcome == Outcome::Unknown && self.may_have_written()
    }
}

/// All operations of a run, in the order of their invocations.
#[derive(Debug, Default)]
pub struct History {
    operations: Vec<Operation>,
}

/// Identifies an operation under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(usize);

impl History {
    /// A client sends a request. Until [`History::end`] its outcome is unknown.
    ///
    /// # Panics
    /// If time went backwards.
    pub fn begin(&mut self, client: u32, key: &str, call: Call, now: Nanos) -> Ticket {
        assert!(self.operations.last().is_none_or(|last| last.invoked <= now), "time goes forward");
        let outcome = Outcome::Unknown;
        let key = key.to_owned();
        self.operations.push(Operation { client, key, call, invoked: now, returned: None, outcome });
        Ticket(self.operations.len() - 1)
    }

    /// The client's request ended.
    ///
    /// # Panics
    /// If it had ended before.
    pub fn end(&mut self, ticket: Ticket, outcome: Outcome, now: Nanos) -> &Operation {
        let operation = &mut self.operations[ticket.0];
        assert_eq!(operation.returned, None, "an operation ends once");
        operation.returned = Some(now);
        operation.outcome = outcome;
        operation
    }

    /// All operations.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let condition = |f: &mut fmt::Formatter<'_>, if_revision: Option<u64>| match if_revision {
            Some(0) => write!(f, " if absent"),
            Some(revision) => write!(f, " if at revision {revision}"),
            None => Ok(()),
        };
        write!(f, "{} ", Seconds(self.invoked))?;
        match self.returned {
            Some(returned) => write!(f, "to {}", Seconds(returned))?,
            None => write!(f, "to the end  ")?,
        }
        write!(f, "  client {} ", self.client)?;
        match self.call {
            Call::Set { value, if_revision } => {
                write!(f, "sets {} to v{value}", self.key)?;
                condition(f, if_revision)?;
            }
            Call::Delete { if_revision } => {
                write!(f, "deletes {}", self.key)?;
                condition(f, if_revision)?;
            }
            Call::Get { stale } => write!(f, "reads {}{}", self.key, if stale { " (stale)" } else { "" })?,
            Call::List { stale } => write!(f, "lists {}*{}", self.key, if stale { " (stale)" } else { "" })?,
            Call::GetAt { revision } => write!(f, "reads {} as at revision {revision}", self.key)?,
            Call::ListAt { revision } => write!(f, "lists {}* as at revision {revision}", self.key)?,
            Call::Versions(span) => write!(f, "reads versions of {}{span}", self.key)?,
            Call::Changes(span) => write!(f, "reads changes of {}*{span}", self.key)?,
        }
        write!(f, ": ")?;
        match &self.outcome {
            Outcome::Unknown => write!(f, "unknown"),
            Outcome::Failed => write!(f, "failed, not executed"),
            Outcome::Ok(Answer::Written { revision }) => write!(f, "ok, revision {revision}"),
            Outcome::Ok(Answer::Deleted { revision, existed: true }) => write!(f, "ok, revision {revision}"),
            Outcome::Ok(Answer::Deleted { revision, existed: false }) => {
                write!(f, "was absent at revision {revision}")
            }
            Outcome::Ok(Answer::ConditionFailed { present_revision }) => {
                write!(f, "refused, the key is at revision {present_revision}")
            }
            Outcome::Ok(Answer::Read { revision, entry: Some(entry) }) => {
                write!(f, "v{} of revision {} at revision {revision}", entry.value, entry.mod_revision)
            }
            Outcome::Ok(Answer::Read { revision, entry: None }) => write!(f, "absent at revision {revision}"),
            Outcome::Ok(Answer::Listed { revision, entries }) => {
                write!(f, "{} keys at revision {revision}", entries.len())
            }
            Outcome::Ok(Answer::Changed { revision, pages }) => {
                let sizes: Vec<usize> = pages.iter().map(Vec::len).collect();
                write!(f, "pages of {sizes:?} up to revision {revision}")
            }
            Outcome::Ok(Answer::Compacted) => write!(f, "compacted"),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Span { from, to, limit, stale } = self;
        for (word, number) in [("from", from), ("to", to), ("in pages of", limit)] {
            if let Some(number) = number {
                write!(f, " {word} {number}")?;
            }
        }
        f.write_str(if *stale { " (stale)" } else { "" })
    }
}

/// Displays simulated time in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Seconds(pub Nanos);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>10.6}s", self.0 as f64 / 1e9)
    }
}
