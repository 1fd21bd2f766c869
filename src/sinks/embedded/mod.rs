//! In work.

pub mod part;
