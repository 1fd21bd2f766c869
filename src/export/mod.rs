//! Exports: every match of a tenant as one text, as of one number. The same for the streams over HTTP and for the jobs that
//! write into objects.
//!
//! [`Source`] reads the matches in order, in portions of bounded bytes, and holds nothing of the store between them, so that
//! a slow reader pins no deleted part. [`Encoder`] turns entries into text. Both can be taken up again at any entry: what an
//! interrupted export has written needs no second reading.
//!
//! Not here: who may export, and where the text goes.

mod csv;
mod encode;
mod source;

pub use encode::{Encoder, Format};
pub use source::Source;
