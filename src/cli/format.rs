//! The formats of results and errors, `--output`.

use clap::ValueEnum;

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns under headings, long values cut
    Table,
    /// One JSON object a line, nothing cut
    Json,
    /// One line a result, tabs between columns, no headings, nothing cut
    Plain,
}
