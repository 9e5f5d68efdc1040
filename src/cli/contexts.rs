//! The file of named contexts: the endpoints and credentials of clusters, for all commands.
//!
//! The file holds paths of credentials, never the credentials. It is read strictly: unknown content is refused with
//! file and line, because a mistyped word would send a command to another cluster. It is written atomically, readable
//! for this user only, by one command at a time. Independent of what a command requests from a cluster.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_saphyr::Spanned;

use super::credentials::Credentials;
use super::failure::Failure;
use crate::client;
use crate::config::{ConfigError, yaml_not_read};
use crate::rt::disk::{create_file, lock_file, rename_durably};

/// The variable with the path of the file.
const FILE_VARIABLE: &str = "MOKV_CONFIG";
/// The file's path below the user's configuration directory.
const FILE: &str = "mokv/contexts.yaml";
/// The largest contexts file, in bytes; a larger file is refused unread.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// The most symbolic links that are followed to the file; Linux has the same limit.
const MAX_LINKS: usize = 40;
/// Longest name of a context, in characters.
const MAX_NAME_CHARACTERS: usize = 64;

/// A cluster's endpoints and the credentials for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Context {
    /// `HOST:PORT`, at least one.
    pub endpoints: Vec<String>,
    /// The following fields correspond to the flags of the same names.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tls: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_ca: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_cert: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_server_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
}

impl Context {
    /// Returns the credentials for the cluster.
    pub fn credentials(&self) -> Credentials {
        Credentials {
            tls: self.tls,
            tls_ca: self.tls_ca.clone(),
            tls_cert: self.tls_cert.clone(),
            tls_key: self.tls_key.clone(),
            tls_server_name: self.tls_server_name.clone(),
            token_file: self.token_file.clone(),
        }
    }
}

/// The contents of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Contexts {
    /// The context that is used when none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// By name.
    pub contexts: BTreeMap<String, Context>,
}

/// The same with line numbers, for reading.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    current: Option<Spanned<String>>,
    #[serde(default)]
    contexts: BTreeMap<String, Spanned<Context>>,
}

/// Returns the path of the file: the value of `MOKV_CONFIG`, else below `XDG_CONFIG_HOME`, else below `~/.config`.
/// `None` if the user has no home directory.
pub fn path(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Option<PathBuf> {
    let named = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // The XDG specification requires relative paths to be ignored.
    let settings = || named("XDG_CONFIG_HOME").filter(|directory| directory.is_absolute());
    let home = || named("HOME").map(|home| home.join(".config"));
    named(FILE_VARIABLE).or_else(|| settings().or_else(home).map(|directory| directory.join(FILE)))
}

/// Returns the path of the file for this process's environment.
///
/// # Errors
/// If no variable determines it.
pub fn own_path() -> Result<PathBuf, Failure> {
    path(|name| std::env::var_os(name)).ok_or_else(|| {
        Failure::usage(
            "it is not known where contexts are kept: HOME is not set",
            format!("set {FILE_VARIABLE} to the path of a file"),
        )
    })
}

impl Contexts {
    /// Reads the file; a missing file holds no contexts.
    ///
    /// # Errors
    /// If it cannot be read or has unknown or invalid content.
    pub fn read(path: &Path) -> Result<Contexts, Failure> {
        let unreadable = |error: std::io::Error| {
            let what = format!("cannot read the contexts in '{}': {error}", path.display());
            Failure::usage(
                what,
                format!("make it a file that this user may read, or name another one by {FILE_VARIABLE}"),
            )
        };
        let metadata = match std::fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Contexts::default()),
            Err(error) => return Err(unreadable(error)),
        };
        if !metadata.is_file() || metadata.len() > MAX_FILE_BYTES {
            return Err(unreadable(std::io::Error::other(format!(
                "it is no file, or larger than {MAX_FILE_BYTES} bytes"
            ))));
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        Ok(Contexts::parse(path, &text)?)
    }

    fn parse(path: &Path, text: &str) -> Result<Contexts, ConfigError> {
        if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            return Ok(Contexts::default());
        }
        let remedy = "write it as 'mokv context add' does, or move it away and add the contexts again";
        let Written { current, contexts } =
            serde_saphyr::from_str(text).map_err(|error| yaml_not_read(path, &error, remedy))?;
        let refused = |line: u64, problem: String, remedy: &str| {
            ConfigError::new(format!("{} line {line}", path.display()), problem, remedy)
        };
        for (name, context) in &contexts {
            let line = context.referenced.line();
            let Context { endpoints, tls_cert, tls_key, .. } = &context.value;
            if let Err(problem) = check_name(name) {
                return Err(refused(
                    line,
                    format!("context '{}': {problem}", name.escape_debug()),
                    "give it another name",
                ));
            }
            let wrong = match endpoints.is_empty() {
                true => Some("it has no endpoints".to_owned()),
                false => endpoints
                    .iter()
                    .find_map(|given| client::endpoint(given).err())
                    .map(|error| error.to_string()),
            };
            if let Some(wrong) = wrong {
                return Err(refused(
                    line,
                    format!("context '{name}': {wrong}"),
                    "list HOST:PORT of its nodes",
                ));
            }
            if tls_cert.is_some() != tls_key.is_some() {
                let problem = format!("context '{name}' has one of tls-cert and tls-key");
                return Err(refused(line, problem, "name both, or none"));
            }
        }
        if let Some(current) = &current
            && !contexts.contains_key(&current.value)
        {
            let problem = format!("there is no context '{}'", current.value.escape_debug());
            return Err(refused(current.referenced.line(), problem, "name one that is below, or none"));
        }
        Ok(Contexts {
            current: current.map(|current| current.value),
            contexts: contexts.into_iter().map(|(name, context)| (name, context.value)).collect(),
        })
    }

    /// Reads the file, applies `change` to its contents, and writes it atomically, for this user only. Creates the
    /// directory if needed. If `path` is a symbolic link, its target is written. Holds a lock, so that concurrent
    /// changes wait.
    ///
    /// # Errors
    /// If the file cannot be read or written, a path in it is not UTF-8, or `change` fails.
    pub async fn change(
        path: &Path,
        change: impl FnOnce(&mut Contexts) -> Result<(), Failure>,
    ) -> Result<Contexts, Failure> {
        let unwritable = |error: std::io::Error| {
            Failure::error(
                format!("cannot write the contexts to '{}': {error}", path.display()),
                "nothing was changed: check the directory and the free space",
            )
        };
        let file = behind_links(path).map_err(unwritable)?;
        if let Some(directory) = file.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(unwritable)?;
        }
        // Locks a file beside it, because every change replaces the file itself.
        let _lock = lock_file(&beside(&file, "lock")).map_err(unwritable)?;
        let mut contexts = Contexts::read(path)?;
        change(&mut contexts)?;
        contexts.write(&file).await.map_err(unwritable)?;
        Ok(contexts)
    }

    async fn write(&self, file: &Path) -> std::io::Result<()> {
        let text = serde_saphyr::to_string(self).map_err(std::io::Error::other)?;
        // Overwrites the draft of a command that was killed.
        let draft = beside(file, "draft");
        let written = async {
            create_file(&draft)?.write_and_sync(0, text.into_bytes().into()).await?;
            rename_durably(&draft, file)
        };
        written.await.inspect_err(|_| {
            // The file was not replaced; the draft is useless.
            let _ = std::fs::remove_file(&draft);
        })
    }

    /// Returns the context of this name.
    ///
    /// # Errors
    /// If there is none.
    pub fn get(&self, name: &str, path: &Path) -> Result<&Context, Failure> {
        self.contexts.get(name).ok_or_else(|| {
            Failure::not_found(
                format!("there is no context '{}' in '{}'", name.escape_debug(), path.display()),
                "'mokv context list' lists them, 'mokv context add' adds one",
            )
        })
    }
}

/// Follows the symbolic links of `path`. Returns the target, which need not exist.
fn behind_links(path: &Path) -> std::io::Result<PathBuf> {
    let mut file = path.to_owned();
    for _ in 0..MAX_LINKS {
        match std::fs::read_link(&file) {
            Ok(target) => file = file.parent().unwrap_or(Path::new("")).join(target),
            // Not a link, or it does not exist yet.
            Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::NotFound) => {
                return Ok(file);
            }
            Err(error) => return Err(error),
        }
    }
    Err(std::io::Error::other("links lead round in a circle"))
}

/// Returns a path in the same directory with `.ending` appended.
fn beside(file: &Path, ending: impl std::fmt::Display) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{ending}"));
    name.into()
}

/// Checks that a name is a word without special meaning to shells and YAML.
pub fn check_name(name: &str) -> Result<(), String> {
    let fits = |character: char| character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-');
    let begins = name.starts_with(|first: char| first.is_ascii_alphanumeric());
    if begins && name.chars().all(fits) && name.len() <= MAX_NAME_CHARACTERS {
        return Ok(());
    }
    Err(format!(
        "a name is 1 to {MAX_NAME_CHARACTERS} letters, digits, '.', '_' and '-', and begins with a letter or a digit"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::process::block_on;
    use proptest::prelude::*;

    const FILE: &str = "contexts.yaml";

    fn parse(text: &str) -> Result<Contexts, String> {
        Contexts::parse(Path::new(FILE), text).map_err(|error| error.to_string())
    }

    #[test]
    fn invalid_contexts_are_refused_with_their_line_and_what_to_do() {
        for (text, line, words) in [
            ("current: prod\n", 1, "there is no context 'prod'"),
            ("contexts:\n  prod:\n    endpoints: [a:1]\n    tsl: true\n", 4, "no such key: 'tsl'"),
            ("contexts:\n  prod:\n    tls: true\n", 3, "'endpoints' is missing"),
            ("contexts:\n  prod:\n    endpoints: []\n", 3, "has no endpoints"),
            ("contexts:\n  prod:\n    endpoints: ['a:1', 'b']\n", 3, "'b' is no endpoint"),
            ("contexts:\n  'a b':\n    endpoints: [a:1]\n", 3, "a name is"),
            (
                "contexts:\n  a:\n    endpoints: [a:1]\n    tls-cert: c.pem\n",
                3,
                "one of tls-cert and tls-key",
            ),
            (
                "contexts:\n  a: {endpoints: [a:1]}\n  a: {endpoints: [b:1]}\n",
                3,
                "the key 'a' was given before",
            ),
            ("contexts:\n  a:\n    endpoints: a:1\n", 3, "a list is expected here"),
            ("contexts:\n  a:\n    endpoints: [[a]]\n", 3, "one value is expected here"),
            ("contexts:\n  a:\n    endpoints: [a:1]\n    tls: maybe\n", 4, "true or false is expected here"),
            ("contexts:\n  a: 7\n", 2, "'key: value' are expected here"),
            ("contexts: {}\n---\ncontexts: {}\n", 3, "'---'"),
            ("curent: a\n", 1, "no such key: 'curent'"),
            ("- a\n", 1, "'key: value'"),
            ("{", 1, "this is no YAML"),
            ("contexts:\n  a: *b\n", 2, "this is no YAML"),
        ] {
            let said = parse(text).expect_err(text);
            assert!(said.starts_with(&format!("{FILE} line {line}: ")), "{text}: {said}");
            assert!(said.contains(words) && said.contains("; "), "{text}: {said}");
            for jargon in ["field", "mapping", "scalar", "sequence", "Policy", "Options"] {
                assert!(!said.contains(jargon), "{text}: {said}");
            }
        }
        for nothing in ["", "# none yet\n", "contexts: {}\n"] {
            assert_eq!(parse(nothing), Ok(Contexts::default()), "{nothing}");
        }
    }

    #[test]
    fn where_the_file_is() {
        let path = |set: &[(&str, &str)]| {
            let found = |name: &str| set.iter().find(|(set, _)| *set == name).map(|(_, value)| value.into());
            path(found).map(|path| path.display().to_string())
        };
        let home = ("HOME", "/home/a");
        assert_eq!(path(&[home]).as_deref(), Some("/home/a/.config/mokv/contexts.yaml"));
        assert_eq!(path(&[home, ("XDG_CONFIG_HOME", "/x")]).as_deref(), Some("/x/mokv/contexts.yaml"));
        assert_eq!(path(&[home, ("XDG_CONFIG_HOME", "x")]), path(&[home]), "a relative one is ignored");
        assert_eq!(path(&[home, ("XDG_CONFIG_HOME", ""), ("MOKV_CONFIG", "")]), path(&[home]));
        assert_eq!(path(&[home, ("XDG_CONFIG_HOME", "/x"), ("MOKV_CONFIG", "c")]).as_deref(), Some("c"));
        assert_eq!(path(&[]), None);
    }

    fn context() -> impl Strategy<Value = Context> {
        let file = || proptest::option::of("[ -~]{1,20}".prop_map(PathBuf::from));
        let endpoints = prop::collection::vec("[a-z0-9.-]{1,8}:[1-9][0-9]{0,3}", 1..4);
        let pair = proptest::option::of(("[ -~]{1,12}", "[ -~]{1,12}"));
        (endpoints, any::<bool>(), file(), pair, proptest::option::of("[ -~]{1,12}"), file()).prop_map(
            |(endpoints, tls, tls_ca, pair, tls_server_name, token_file)| {
                let (tls_cert, tls_key) = pair.map(|(cert, key)| (cert.into(), key.into())).unzip();
                Context { endpoints, tls, tls_ca, tls_cert, tls_key, tls_server_name, token_file }
            },
        )
    }

    proptest! {
        /// Includes words with another meaning in YAML: a context called 'no', a file called '~'.
        #[test]
        fn what_is_written_is_read_back(
            mut contexts in prop::collection::btree_map("[a-z0-9][a-z0-9._-]{0,5}|no|null|1e3|0x1", context(), 0..4),
            use_first in any::<bool>(),
            odd in prop::sample::select(vec!["~", "no", "1", "null", "-", "a: b", "#", "007", "'", "\"", "é"]),
        ) {
            if let Some(first) = contexts.values_mut().next() {
                first.token_file = Some(odd.into());
            }
            let current = contexts.keys().next().filter(|_| use_first).cloned();
            let contexts = Contexts { current, contexts };
            prop_assert_eq!(parse(&serde_saphyr::to_string(&contexts).unwrap()), Ok(contexts));
        }

        #[test]
        fn no_file_makes_it_panic(text in "[ -~\\n]{0,60}|(contexts|current|endpoints|[:\\[\\]{}&*!| \\n]){0,20}") {
            let _ = parse(&text);
        }
    }

    fn contexts(name: &str) -> Contexts {
        let context = Context { endpoints: vec!["a:1".into()], ..Context::default() };
        Contexts { current: Some(name.into()), contexts: BTreeMap::from([(name.into(), context)]) }
    }

    fn write(path: &Path, contexts: &Contexts) -> Result<Contexts, Failure> {
        let change = |present: &mut Contexts| {
            present.clone_from(contexts);
            Ok(())
        };
        block_on(Contexts::change(path, change)).unwrap()
    }

    #[test]
    fn it_is_written_whole_for_its_user_alone_and_what_is_no_file_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("made/too").join(FILE);
        assert_eq!(Contexts::read(&path), Ok(Contexts::default()), "none was written yet");
        assert_eq!(write(&path, &contexts("a")), Ok(contexts("a")));
        assert_eq!(Contexts::read(&path), Ok(contexts("a")));
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        let left = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(left, 2, "the file and its lock: no draft is left");
        let no_file = Contexts::read(directory.path()).unwrap_err().to_string();
        assert!(no_file.contains("it is no file") && no_file.contains("MOKV_CONFIG"), "{no_file}");
        std::fs::write(&path, b"\xff").unwrap();
        assert!(Contexts::read(&path).is_err(), "it is no text");
    }

    #[test]
    fn what_a_link_leads_to_is_written_and_the_link_stays() {
        use std::os::unix::fs::symlink;
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir(at("kept")).unwrap();
        symlink("kept/real", at("near")).unwrap();
        symlink(at("near"), at("far")).unwrap();
        write(&at("far"), &contexts("a")).unwrap();
        assert_eq!(Contexts::read(&at("kept/real")), Ok(contexts("a")), "it was not there before");
        write(&at("near"), &contexts("b")).unwrap();
        assert_eq!(Contexts::read(&at("far")), Ok(contexts("b")));
        assert!(at("near").is_symlink() && at("far").is_symlink() && !at("kept/real").is_symlink());
        symlink("round", at("round")).unwrap();
        let said = write(&at("round"), &contexts("a")).unwrap_err().to_string();
        assert!(said.contains("in a circle"), "{said}");
    }
}
