//! Where the runner puts what it writes. Relative paths are relative to where the user stands, who came through a door
//! that runs cargo somewhere else.

use std::path::{Path, PathBuf};

use crate::launcher;

/// A path that the user gave, who stands where the door says, or simply here.
pub fn of_user(path: &Path) -> PathBuf {
    std::env::var_os(launcher::FROM).map_or_else(|| path.to_owned(), |from| Path::new(&from).join(path))
}

/// A folder of this name in `target`, of which the door uses `target/sim`. Without the door this program is taken for
/// `target/sim/sim/mokv-sim`.
pub fn in_target(name: &str) -> PathBuf {
    let ours = std::env::var_os(launcher::TARGET).map(PathBuf::from).or_else(|| {
        let program = std::env::current_exe().ok()?;
        program.ancestors().nth(2).map(Path::to_owned)
    });
    ours.as_deref().and_then(Path::parent).unwrap_or(Path::new("target")).join(name)
}

/// Writes a file and the folders it lies in; says so, or what went wrong.
///
/// # Errors
/// In words.
pub fn write(file: &Path, text: &str) -> Result<(), String> {
    let folder = file.parent().unwrap_or(Path::new("."));
    let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(file, text));
    written.map_err(|error| format!("cannot write {}: {error}", file.display()))
}
