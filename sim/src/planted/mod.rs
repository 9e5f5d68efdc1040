//! Proof that the checkers find bugs: chaos plays every planted bug of the nodes until it is caught.
//!
//! A bug is a file of `sim/planted` (`bug`), and all of them are applied to a copy of the tree (`tree`), so that the
//! product has none. A bug counts only if the calm world does not catch it: what shows there needs no chaos. `hunt`
//! plays, `record` keeps the results in a file, so that a hunt can be interrupted and resumed, `table` prints them.

pub mod bug;
#[cfg(madsim)]
pub mod calm;
#[cfg(madsim)]
mod hunt;
pub mod record;
pub mod table;
#[cfg(not(madsim))]
pub mod tree;

use std::path::Path;
use std::sync::OnceLock;

use bug::Bug;
#[cfg(madsim)]
pub use hunt::hunt;

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
