//! The form in which a node id is displayed everywhere: in messages, logs, tables and JSON.
//!
//! Sixteen hexadecimal digits: as a number an id would lose digits in JSON, and people cannot compare numbers of
//! nineteen digits. For display only; code passes ids around as plain numbers.

use std::fmt;

/// Displays a node id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Displays a node by its id and, if known, its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named<'a>(pub Option<&'a str>, pub u64);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.filter(|name| !name.is_empty()) {
            Some(name) => write!(f, "'{name}' (node id {})", NodeId(self.1)),
            None => write!(f, "node id {}", NodeId(self.1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_sixteen_digits_and_a_name_before_it_where_one_is_known() {
        assert_eq!(NodeId(0xabc).to_string(), "0000000000000abc");
        assert_eq!(NodeId(u64::MAX).to_string(), "ffffffffffffffff");
        assert_eq!(Named(Some("n1"), 0xabc).to_string(), "'n1' (node id 0000000000000abc)");
        assert_eq!(Named(Some(""), 0xabc).to_string(), "node id 0000000000000abc");
        assert_eq!(Named(None, 0xabc).to_string(), "node id 0000000000000abc");
    }
}
