//! An ordered stop: phases one after the other under a single deadline, each logged with how long it took. At the deadline
//! it is said who was still running, and the rest of the phases are passed over; what was not settled is delivered again at
//! the next start.

use crate::error::AppError;
use std::{future::Future, time::Duration};
use tokio::time::{Instant, timeout_at};

/// From this call on SIGTERM and Ctrl-C no longer end the process by themselves; the future resolves at the first of them,
/// also at one that came before it was polled. Cancel-safe.
pub fn requested() -> Result<impl Future<Output = ()>, AppError> {
    use tokio::signal::unix::{SignalKind, signal};
    let cannot = |e| AppError::failed(format!("signals cannot be received: {e}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
            _ = interrupt.recv() => tracing::info!("interrupted: stopping"),
        }
    })
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

    #[tokio::test]
    async fn a_signal_that_comes_before_anybody_waits_is_not_lost_and_does_not_kill() {
        let asked = requested().expect("signals can be received");
        let process = std::process::id().to_string();
        let sent = std::process::Command::new("kill").args(["-TERM", &process]).status();
        assert!(sent.expect("it runs").success());
        asked.await;
    }

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
