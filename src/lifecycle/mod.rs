//! Background work on stored entries.

pub mod access_log;
pub mod deletion;
pub mod erasure;
pub mod export;
pub mod retention;

#[cfg(test)]
mod tests;
