//! strace's recording, parsed into calls with a beginning and an end.
//!
//! One strace follows all nodes, so the lines of its file are in one order: a call entered on a later line than the one
//! on which another call returned began after that call, in whatever process.

use std::collections::BTreeMap;

/// The calls that are traced. Everything else runs at full speed.
pub const CALLS: &str = "trace=pwrite64,pwritev,fdatasync,fsync,rename,renameat,renameat2,unlink,unlinkat,\
                         recvfrom,recvmsg,read,readv,sendto,sendmsg,write,writev";

/// A finished call.
#[derive(Debug, Clone)]
pub struct Call {
    pub name: String,
    /// The line on which it was entered.
    pub begin: usize,
    /// The line on which it returned.
    pub end: usize,
    pub result: i64,
    /// The file or connection of its first argument.
    pub target: Target,
    /// Its strings, one after the other: bytes read or written, or paths.
    pub strings: Vec<Vec<u8>>,
}

/// What a file descriptor refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Path(String),
    /// A TCP connection; `host:port` of this process first.
    Connection(Connection),
    Other,
}

/// Both ends of a TCP connection, as one process sees it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connection {
    pub local: String,
    pub peer: String,
}

impl Call {
    pub fn path(&self) -> Option<&str> {
        match &self.target {
            Target::Path(path) => Some(path),
            _ => None,
        }
    }

    /// The path in its string with this index, if it has one.
    pub fn path_argument(&self, number: usize) -> Option<&str> {
        std::str::from_utf8(self.strings.get(number)?).ok()
    }

    /// The bytes that were really transferred: a socket may take fewer than it was given.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.strings.concat();
        bytes.truncate(usize::try_from(self.result).unwrap_or(0));
        bytes
    }
}

/// Parses strace's file. Lines that are no calls (signals, ends of processes) are skipped.
pub fn parse(text: &str) -> Vec<Call> {
    let mut unfinished: BTreeMap<&str, (usize, String)> = BTreeMap::new();
    let mut calls = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let mut words = line.splitn(2, ' ');
        let (Some(task), Some(rest)) = (words.next(), words.next()) else { continue };
        // The second word is the time.
        let Some((_, rest)) = rest.trim_start().split_once(' ') else { continue };
        if let Some(begun) = rest.strip_suffix(" <unfinished ...>") {
            unfinished.insert(task, (number, begun.to_owned()));
        } else if let Some(resumed) = rest.strip_prefix("<... ") {
            let Some((_, rest)) = resumed.split_once(" resumed>") else { continue };
            let Some((begin, begun)) = unfinished.remove(task) else { continue };
            calls.extend(call(&(begun + rest), begin, number));
        } else {
            calls.extend(call(rest, number, number));
        }
    }
    calls.sort_by_key(|call| call.begin);
    calls
}

/// The line on which a process is first told to stop.
pub fn first_stop(text: &str) -> Option<usize> {
    text.lines().position(|line| line.contains(" --- SIGTERM "))
}

fn call(text: &str, begin: usize, end: usize) -> Option<Call> {
    let (name, arguments) = text.split_once('(')?;
    let (arguments, result) = arguments.rsplit_once(" = ")?;
    let result = result.split(' ').next()?.parse().ok()?;
    let strings = strings(arguments);
    Some(Call { name: name.to_owned(), begin, end, result, target: target(arguments), strings })
}

fn target(arguments: &str) -> Target {
    let digits = arguments.trim_start_matches(|c: char| c.is_ascii_digit());
    let Some(what) = digits.strip_prefix('<') else { return Target::Other };
    if let Some(ends) = what.strip_prefix("TCP:[") {
        let ends = ends.split_once(']').and_then(|(ends, _)| ends.split_once("->"));
        return ends.map_or(Target::Other, |(local, peer)| {
            Target::Connection(Connection { local: local.to_owned(), peer: peer.to_owned() })
        });
    }
    let path = what.split('>').next().and_then(|path| String::from_utf8(unescape(path)).ok());
    path.filter(|path| path.starts_with('/')).map_or(Target::Other, Target::Path)
}

/// Returns everything between quotation marks. With `-xx`, a string contains only `\x..`.
fn strings(arguments: &str) -> Vec<Vec<u8>> {
    arguments.split('"').skip(1).step_by(2).map(unescape).collect()
}

fn unescape(text: &str) -> Vec<u8> {
    text.split("\\x").skip(1).filter_map(|digits| u8::from_str_radix(digits.get(..2)?, 16).ok()).collect()
}
