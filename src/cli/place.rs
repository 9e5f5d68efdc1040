//! A node as an operator refers to it.

use std::fmt;

use crate::client::Member;

/// A node's name and address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Its name, if known.
    pub name: Option<String>,
    /// Its RPC address.
    pub address: String,
}

impl Place {
    /// A node of which only the address is known.
    pub fn unnamed(address: &str) -> Place {
        Place { name: None, address: address.to_owned() }
    }

    /// Returns its name as a cell of a table.
    pub fn cell(&self) -> String {
        self.name.clone().unwrap_or_else(|| "-".to_owned())
    }
}

impl From<Member> for Place {
    fn from(member: Member) -> Place {
        Place { name: Some(member.name).filter(|name| !name.is_empty()), address: member.rpc_addr }
    }
}

/// For use in a sentence.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name} ({})", self.address),
            None => f.write_str(&self.address),
        }
    }
}
