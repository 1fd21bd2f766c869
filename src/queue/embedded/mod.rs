//! In work.
pub mod backlog;
pub mod book;
pub mod recovery;
