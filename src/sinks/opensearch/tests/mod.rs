//! The store against the real engine.
