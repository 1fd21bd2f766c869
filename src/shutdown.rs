//! An ordered stop: phases one after the other under a single deadline, each logged with how long it took. At the deadline
//! it is said who was still running, and the rest of the phases are passed over; what was not settled is delivered again at
//! the next start.

use std::{future::Future, time::Duration};
use tokio::time::{Instant, timeout_at};

/// Waits for SIGTERM or Ctrl-C. Cancel-safe.
pub async fn requested() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
        _ = interrupt.recv() => tracing::info!("interrupted: stopping"),
    }
    Ok(())
}

/// A stop that has begun.
#[derive(Debug)]
pub struct Shutdown {
    began: Instant,
    deadline: Instant,
    left: Vec<Left>,
}

/// A phase that did not end in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Which.
    pub phase: &'static str,
    /// What was still running in it.
    pub who: String,
}

impl Shutdown {
    /// Begins; all phases together have this long.
    pub fn begin(within: Duration) -> Self {
        let began = Instant::now();
        Self {
            began,
            deadline: began + within,
            left: Vec::new(),
        }
    }

    /// Runs one phase, until the deadline at most; then `work` is dropped and `who` says what was still running. After the
    /// deadline a phase is polled once, so that what has nothing to wait for is still done.
    pub async fn phase<T>(&mut self, phase: &'static str, work: impl Future<Output = T>, who: impl FnOnce() -> String) -> Option<T> {
        let began = Instant::now();
        match timeout_at(self.deadline, work).await {
            Ok(done) => {
                tracing::info!(phase, took = ?began.elapsed(), "stopped");
                Some(done)
            }
            Err(_) => {
                let who = who();
                tracing::error!(phase, still_running = %who, took = ?began.elapsed(), "not stopped at the deadline");
                self.left.push(Left { phase, who });
                None
            }
        }
    }

    /// How long is left for the phases to come.
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// The end: what did not end in time, if anything.
    pub fn finish(self) -> Result<(), Vec<Left>> {
        tracing::info!(took = ?self.began.elapsed(), "stopped");
        if self.left.is_empty() { Ok(()) } else { Err(self.left) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};

    #[tokio::test(start_paused = true)]
    async fn one_deadline_for_all_phases_and_it_names_who_was_left() {
        let mut shutdown = Shutdown::begin(Duration::from_secs(30));
        let slow = tokio::time::sleep(Duration::from_secs(20));
        assert_eq!(shutdown.phase("drain", slow, String::new).await, Some(()));
        assert_eq!(shutdown.remaining(), Duration::from_secs(10));
        assert_eq!(shutdown.phase("sessions", pending::<()>(), || "2 sessions".to_owned()).await, None);
        assert_eq!(shutdown.remaining(), Duration::ZERO, "the second phase had only what the first had left");
        assert_eq!(
            shutdown.phase("unlock", ready(7), String::new).await,
            Some(7),
            "what need not wait is done all the same"
        );
        let left = Left {
            phase: "sessions",
            who: "2 sessions".to_owned(),
        };
        assert_eq!(shutdown.finish(), Err(vec![left]));
    }
}
