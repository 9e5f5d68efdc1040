//! Where the runner puts what it writes. Relative paths are relative to where the user stands, who came through a door
//! that runs cargo somewhere else.

use std::path::{Path, PathBuf};

/// Where the user stands: told by the door, or simply here.
pub const FROM: &str = "MOKV_SIM_FROM";

/// A path that the user gave.
pub fn of_user(path: &Path) -> PathBuf {
    std::env::var_os(FROM).map_or_else(|| path.to_owned(), |from| Path::new(&from).join(path))
}

/// A folder of this name in `target`, which this program lies in: `target/sim/sim/mokv-sim`.
pub fn in_target(name: &str) -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let target = program.ancestors().nth(3).unwrap_or(Path::new("target"));
    target.join(name)
}

/// Writes a file and the folders it lies in; says so, or what went wrong.
///
/// # Errors
/// In words.
#[allow(clippy::disallowed_methods)] // The parent simulates nothing.
pub fn write(file: &Path, text: &str) -> Result<(), String> {
    let folder = file.parent().unwrap_or(Path::new("."));
    let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(file, text));
    written.map_err(|error| format!("cannot write {}: {error}", file.display()))
}
