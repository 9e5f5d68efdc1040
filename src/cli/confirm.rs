//! Asks the user before an irreversible action.

use std::io::{self, IsTerminal, Write};

use super::failure::Failure;

/// Asks the user to type `word`, which names what will be deleted. Returns whether the user typed it.
///
/// # Errors
/// If there is no terminal to ask on; `--yes` confirms without one.
pub fn confirmed(question: &str, word: &str) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        let what = format!("{question} There is no terminal to ask on");
        return Err(Failure::usage(what, "add --yes to go on without a question"));
    }
    let failed = |error| Failure::error(format!("cannot ask: {error}"), "add --yes");
    let mut stderr = io::stderr();
    write!(stderr, "{question}\nType '{word}' to go on: ").and_then(|()| stderr.flush()).map_err(failed)?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(failed)?;
    Ok(answer.trim() == word)
}
