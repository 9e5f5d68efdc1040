//! `mokv completion`: lets a shell complete commands and flags.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::failure::Failure;
use super::format::Format;
use super::output::Output;

/// Write a script by which a shell completes commands and flags
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  source <(mokv completion bash)                                            this shell only
  mokv completion bash > ~/.local/share/bash-completion/completions/mokv    for good
  mokv completion zsh > ~/.zfunc/_mokv
  mokv completion fish > ~/.config/fish/completions/mokv.fish")]
pub struct Completion {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completion {
    /// Writes the script.
    ///
    /// # Errors
    /// If stdout cannot be written to.
    pub fn run(self) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::Cli::command(), "mokv", &mut script);
        let mut output = Output::new(Format::Plain);
        output.bytes(&script)?;
        output.flush()
    }
}
