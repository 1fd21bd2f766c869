//! How the process ends: the exit codes of the contract, and the one line that says why.

use std::{fmt, process::ExitCode};

/// An exit code that scripts rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// Some entries were rejected.
    SomeRejected = 2,
    /// Wrong usage or configuration.
    Usage = 64,
    /// Port taken, folder locked or not writable.
    CannotStart = 73,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// Why a command ended early: an exit code, and a message of one line (configuration: one line per problem).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppError {
    /// How the process ends.
    pub exit: Exit,
    /// Why, for people; no secrets.
    pub message: String,
}

impl AppError {
    /// Something went wrong while working.
    pub fn failed(message: impl fmt::Display) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// The arguments or the configuration are wrong.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// A port, a lock or a folder could not be had.
    pub fn cannot_start(message: impl fmt::Display) -> Self {
        Self::new(Exit::CannotStart, message)
    }

    fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self {
            exit,
            message: message.to_string(),
        }
    }
}

impl fmt::Display for AppError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for AppError {}
