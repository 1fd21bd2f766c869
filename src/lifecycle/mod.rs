//! Background work on stored entries.

pub mod erasure;
pub mod retention;

#[cfg(test)]
mod tests;
