//! The simulation, a workspace with a lock file of its own, simulates what is shipped: both build the product from the
//! same packages in the same versions.

#[allow(dead_code)] // Others use the rest.
#[path = "../sim/src/launcher/cargo.rs"]
mod cargo;

use std::collections::BTreeSet;
use std::path::Path;

/// `NAME VERSION` of every package that the simulated product is built from, by the lock file beside `manifest`.
fn packages(manifest: &str, features: &[&str]) -> BTreeSet<String> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join(manifest);
    let mut tree = cargo::cargo("tree", &manifest);
    tree.args([
        "--locked",
        "--package",
        "mokv",
        "--edges",
        "normal,build",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]);
    tree.args(features);
    tree.env_remove("CARGO_ENCODED_RUSTFLAGS").env("RUSTFLAGS", "--cfg madsim");
    let output = tree.output().expect("cargo runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo tree of {}: {said}", manifest.display());
    let text = String::from_utf8_lossy(&output.stdout);
    // Without the folders of packages from no registry: of the two stand-ins, only one is in a folder.
    text.lines().filter_map(|line| line.split(" (").next()).map(str::to_owned).collect()
}

#[test]
fn what_is_simulated_is_what_is_shipped() {
    // The simulation has an allocator of its own.
    let shipped = packages("Cargo.toml", &["--no-default-features", "--features", "server"]);
    let simulated = packages("sim/Cargo.toml", &[]);
    assert!(shipped.len() > 100, "this finds no packages: {shipped:?}");
    let differ: Vec<&String> = shipped.symmetric_difference(&simulated).collect();
    assert!(
        differ.is_empty(),
        "Cargo.lock and sim/Cargo.lock differ in {differ:?}; next: 'cp Cargo.lock sim/' and then \
         'cargo metadata --manifest-path sim/Cargo.toml' bring them together"
    );
}
