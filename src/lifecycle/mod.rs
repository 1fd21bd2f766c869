//! Background work on stored entries.

pub mod access_log;
pub mod counting;
pub mod deletion;
pub mod erasure;
pub mod export;
pub mod leader;
pub mod remote;
pub mod retention;

#[cfg(test)]
mod shared_tests;
#[cfg(test)]
mod tests;
