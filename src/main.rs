//! The `mokv` command.

fn main() {}
