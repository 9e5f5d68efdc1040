//! The planted bugs of the nodes, which prove that the checkers find bugs.
//!
//! A bug is a file of `sim/planted` (`bug`), and all of them are applied to a copy of the tree (`tree`), so that the
//! product has none. The runner's `hunt` plays each of them until a checker catches it.

pub mod bug;
#[cfg(not(madsim))]
pub mod tree;

use std::path::Path;
use std::sync::OnceLock;

use bug::Bug;

/// The folder of the bugs, relative to the simulation's folder.
const FOLDER: &str = "planted";

/// All bugs of the tree that this program was built from.
///
/// # Errors
/// A message for the user, if they cannot be read.
pub fn all() -> Result<&'static [Bug], String> {
    static ALL: OnceLock<Result<Vec<Bug>, String>> = OnceLock::new();
    let all = ALL.get_or_init(|| bug::read_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join(FOLDER)));
    all.as_deref().map_err(Clone::clone)
}
