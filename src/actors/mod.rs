//! In work.

pub mod sequencer;
