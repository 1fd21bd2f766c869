//! Room on the volume: how much packs must leave free, and whether they do.

use super::{Shared, WalError};
use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// The volume is asked at most this often. Tests change the size of the disk and want to see it at once.
const ASK_EVERY: Duration = if cfg!(test) { Duration::ZERO } else { Duration::from_secs(1) };

/// Bytes of a volume of `total` bytes that packs leave free: as `configured`, by default the larger of 5 % and 2 GiB, but at
/// most a quarter of the volume.
pub fn reserve(total: u64, configured: Option<u64>) -> u64 {
    configured.unwrap_or_else(|| (total / 20).max(2 << 30).min(total / 4))
}

/// The last answer about the volume.
pub(super) struct Room {
    reserve: u64,
    started: Instant,
    /// Milliseconds after `started` at which the volume is asked again.
    ask_at: AtomicU64,
    low: AtomicBool,
}

impl Room {
    pub fn new(reserve: u64) -> Self {
        Self {
            reserve,
            started: Instant::now(),
            ask_at: AtomicU64::new(0),
            low: AtomicBool::new(false),
        }
    }
}

impl Shared {
    /// See [`super::Wal::check_room`].
    pub fn check_room(&self) -> Result<(), WalError> {
        let room = &self.room;
        let now = room.started.elapsed().as_millis() as u64;
        let ask_at = room.ask_at.load(Ordering::Relaxed);
        let next = now + ASK_EVERY.as_millis() as u64;
        // One caller asks, the others take the last answer meanwhile.
        if now >= ask_at && room.ask_at.compare_exchange(ask_at, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.ask();
        }
        if room.low.load(Ordering::Relaxed) { Err(WalError::Full) } else { Ok(()) }
    }

    /// Asks the volume, and the prepare thread to try again if it had failed.
    fn ask(&self) {
        let enough = match self.fs.space(&self.dir) {
            Ok(space) => space.available >= self.room.reserve,
            Err(error) => {
                tracing::warn!(%error, "cannot ask for the room on the volume; packs are refused");
                false
            }
        };
        let unprepared = self.lock().unprepared;
        if unprepared && enough {
            self.prepare.notify_one();
        }
        let low = !enough || unprepared;
        if self.room.low.swap(low, Ordering::Relaxed) != low {
            match low {
                true => tracing::warn!(reserve = self.room.reserve, "the disk is full: packs are refused"),
                false => tracing::info!("there is room on the disk again: packs are taken"),
            }
        }
    }

    /// A segment could not be prepared, or could again: packs hear of it at once.
    pub fn room_changed(&self) {
        self.ask();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_five_percent_or_two_gib_but_never_more_than_a_quarter() {
        const MIB: u64 = 1 << 20;
        assert_eq!(reserve(1 << 40, None), (1 << 40) / 20);
        assert_eq!(reserve(20 << 30, None), 2 << 30);
        assert_eq!(reserve(64 * MIB, None), 16 * MIB);
        assert_eq!(reserve(64 * MIB, Some(MIB)), MIB);
    }
}
