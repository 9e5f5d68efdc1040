//! Locks that are held for a few steps, never while anything is waited for.
//!
//! A panic ends the process (`cli::serve`), so a thread that finds a lock which a panic has left held is about to end, too.

use std::sync;

pub use std::sync::{MutexGuard, RwLockReadGuard, RwLockWriteGuard};

/// The panic message of a thread that finds a lock left held by a panic.
const PANICKED: &str = "another thread panicked while it held this lock";

/// A mutual exclusion lock.
#[derive(Debug, Default)]
pub struct Mutex<T>(sync::Mutex<T>);

impl<T> Mutex<T> {
    /// A lock around `value`.
    pub const fn new(value: T) -> Mutex<T> {
        Mutex(sync::Mutex::new(value))
    }

    /// Waits until no other thread holds the lock, and holds it until the guard is dropped.
    ///
    /// # Panics
    /// If a thread panicked while it held the lock.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().expect(PANICKED)
    }
}

/// A lock that many may hold for reading, or one for writing.
#[derive(Debug, Default)]
pub struct RwLock<T>(sync::RwLock<T>);

impl<T> RwLock<T> {
    /// A lock around `value`.
    pub const fn new(value: T) -> RwLock<T> {
        RwLock(sync::RwLock::new(value))
    }

    /// Waits until no other thread holds the lock for writing.
    ///
    /// # Panics
    /// If a thread panicked while it held the lock for writing.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().expect(PANICKED)
    }

    /// Waits until no other thread holds the lock.
    ///
    /// # Panics
    /// If a thread panicked while it held the lock for writing.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().expect(PANICKED)
    }
}
