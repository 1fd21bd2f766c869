//! In work.
pub mod broadcast;
