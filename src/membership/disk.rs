//! disk
pub use crate::rt::disk::{Disk, DiskRef, File, FileRef};
