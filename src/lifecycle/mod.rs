//! Background work on stored entries.

pub mod export;
