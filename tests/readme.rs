//! The examples of programs in README, built and run unchanged except for addresses and paths.

mod common;

use std::path::Path;
use std::process::Command;

use common::cluster::Cluster;
use common::run;

const README: &str = include_str!("../README.md");

/// The first code block of README in this language that contains these words.
fn block(language: &str, words: &str) -> &'static str {
    let begin = format!("```{language}\n");
    let mut blocks = README.split(begin.as_str()).skip(1).map(|rest| rest.split_once("```").unwrap().0);
    let found = blocks.find(|block| block.contains(words));
    found.unwrap_or_else(|| panic!("README has no {language} with '{words}'"))
}

/// `text` with its `example` replaced by `shown`.
fn with(text: &str, example: &str, shown: &str) -> String {
    assert!(text.contains(example), "'{example}' is not in\n{text}");
    text.replace(example, shown)
}

#[test]
fn the_program_on_the_client_library_works_with_this_repository() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    run(async {
        let cluster = Cluster::start(&[]).await;
        let package = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(package.path().join(name), text).unwrap();
        let dependencies = with(block("toml", "mokv = "), "../mokv", repository.to_str().unwrap());
        let head = "[package]\nname = \"reader\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n";
        write("Cargo.toml", &format!("{head}{dependencies}"));
        std::fs::create_dir(package.path().join("src")).unwrap();
        write(
            "src/main.rs",
            &with(block("rust", "Client::builder"), "127.0.0.1:8400", &cluster.nodes[0].rpc),
        );
        // The versions that this repository is tested with.
        std::fs::copy(repository.join("Cargo.lock"), package.path().join("Cargo.lock")).unwrap();
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["run", "--quiet", "--manifest-path"]).arg(package.path().join("Cargo.toml"));
        cargo.env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("readme"));
        let output = cargo.output().unwrap();
        let [said, complaints] =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert!(output.status.success(), "{complaints}");
        assert!(said.starts_with("hello since revision "), "{said}");
    });
}
