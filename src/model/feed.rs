//! What a live-feed session gets: plain data between the broadcaster and the HTTP handlers.

use bytes::Bytes;
use std::sync::Arc;

/// What to do with a reader that is too slow for its bounded buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnSlow {
    /// Catch it up from the store (the default).
    #[default]
    CatchUp,
    /// Skip what does not fit and say so with a gap frame.
    Gap,
    /// Close the session (WebSocket code 4008).
    Close,
}

/// One frame for a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedItem {
    /// An entry: its sequence and its JSON object, encoded once and shared between sessions.
    Entry {
        /// The entry's number.
        sequence: u64,
        /// The JSON text.
        json: Bytes,
    },
    /// Entries `from..=to` were skipped because the reader was slow; it goes on from `to + 1`.
    Gap {
        /// First skipped number.
        from: u64,
        /// Last skipped number.
        to: u64,
    },
    /// Numbers `from..=to` have and will have no entry.
    Void {
        /// First number.
        from: u64,
        /// Last number.
        to: u64,
    },
    /// The session is over; nothing follows.
    Closed(FeedEnd),
}

/// Why a feed session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedEnd {
    /// The reader was too slow and asked for [`OnSlow::Close`].
    TooSlow,
    /// The process is stopping.
    Shutdown,
    /// The store could not be read while catching up.
    StoreFailed(Arc<str>),
}
