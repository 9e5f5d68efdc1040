//! The id of a node: its type, and the one form in which it is displayed.
//!
//! An id is sixteen hexadecimal digits in messages, logs, tables and JSON: as a number it would lose digits in JSON, and
//! people cannot compare numbers of nineteen digits. Messages between nodes and the files carry the number; what reads
//! and writes them converts with `NodeId(number)` and `id.0`.

use std::fmt;

/// A node's id in Raft: a random number, drawn at the first start of a data directory, never 0. On the wire, 0 names no
/// node; elsewhere `Option<NodeId>` says so.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The same digits: openraft's own messages show ids by `Debug` too.
impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Displays a node by its id and, if known, its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named<'a>(pub Option<&'a str>, pub NodeId);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Named(name, id) = self;
        match name.filter(|name| !name.is_empty()) {
            Some(name) => write!(f, "'{name}' (node id {id})"),
            None => write!(f, "node id {id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_sixteen_digits_and_a_name_before_it_where_one_is_known() {
        let id = NodeId(0xabc);
        assert_eq!(id.to_string(), "0000000000000abc");
        assert_eq!(format!("{id:?}"), "0000000000000abc");
        assert_eq!(NodeId(u64::MAX).to_string(), "ffffffffffffffff");
        assert_eq!(Named(Some("n1"), id).to_string(), "'n1' (node id 0000000000000abc)");
        assert_eq!(Named(Some(""), id).to_string(), "node id 0000000000000abc");
        assert_eq!(Named(None, id).to_string(), "node id 0000000000000abc");
    }
}
