//! In work.

pub mod broadcast;
pub mod sequencer;
pub mod tenant;
