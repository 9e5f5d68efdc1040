//! The folders for the runner's files. Relative paths are relative to the user's working directory, because the
//! launcher runs cargo in another one.

use std::path::{Path, PathBuf};

use crate::launcher;

/// Resolves a path from the user: against the directory that the launcher passes on, else against the current one.
pub fn of_user(path: &Path) -> PathBuf {
    std::env::var_os(launcher::FROM).map_or_else(|| path.to_owned(), |from| Path::new(&from).join(path))
}

/// A folder of this name in `target`, of which the launcher uses `target/sim`. Without the launcher, this program is
/// assumed to be `target/sim/sim/mokv-sim`.
pub fn in_target(name: &str) -> PathBuf {
    let ours = std::env::var_os(launcher::TARGET).map(PathBuf::from).or_else(|| {
        let program = std::env::current_exe().ok()?;
        program.ancestors().nth(2).map(Path::to_owned)
    });
    ours.as_deref().and_then(Path::parent).unwrap_or(Path::new("target")).join(name)
}

/// Writes a file, and creates its folders.
///
/// # Errors
/// As a message for the user.
pub fn write(file: &Path, text: &str) -> Result<(), String> {
    let folder = file.parent().unwrap_or(Path::new("."));
    let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(file, text));
    written.map_err(|error| format!("cannot write {}: {error}", file.display()))
}
