//! In work.
pub mod core;
pub mod memory;
