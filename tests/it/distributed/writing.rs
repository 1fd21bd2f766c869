//! A client that writes all the time, and knows what it was told.

use crate::harness::{PATIENCE, Server, checker::Sent, data};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;

/// Only so fast, so that small engines keep up.
const PAUSE: Duration = Duration::from_millis(50);
const ENTRIES: usize = 5;

/// See the module.
pub struct Writing {
    sent: Arc<Mutex<Sent>>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Writing {
    /// Writes through these doors in turn; what was not acknowledged is sent again.
    pub fn start(doors: &[Server], token: &str) -> Self {
        let urls: Vec<String> = doors.iter().map(|door| door.url("/logs/bulk")).collect();
        let (sent, stop) = (Arc::<Mutex<Sent>>::default(), Arc::<AtomicBool>::default());
        let work = write(urls, token.to_owned(), sent.clone(), stop.clone());
        Self {
            sent,
            stop,
            task: tokio::spawn(work),
        }
    }

    /// How many entries are acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).acked.len()
    }

    /// Until so many more entries are acknowledged.
    pub async fn more(&self, entries: usize) {
        let (enough, deadline) = (self.acknowledged() + entries, Instant::now() + PATIENCE);
        while self.acknowledged() < enough {
            assert!(Instant::now() < deadline && !self.task.is_finished(), "nothing is acknowledged any more");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends it; what was tried and what was acknowledged.
    pub async fn stop(self) -> Sent {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("the writer does not panic");
        std::mem::take(&mut self.sent.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn write(urls: Vec<String>, token: String, sent: Arc<Mutex<Sent>>, stop: Arc<AtomicBool>) {
    let client = sluice::cli::client::plain().expect("a client");
    let sent = || sent.lock().unwrap_or_else(PoisonError::into_inner);
    let mut last = None;
    for url in urls.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        tokio::time::sleep(PAUSE).await; // the rate, not a wait
        let (body, ids) = last.take().unwrap_or_else(|| data::bulk(ENTRIES, "written all the time"));
        sent().tried.extend(&ids);
        let request = client.post(url).bearer_auth(&token).header("content-type", "application/json");
        match request.body(body.clone()).timeout(PATIENCE).send().await {
            Ok(answer) if answer.status() == 201 => sent().acked.extend(&ids),
            Ok(answer) => {
                assert!(matches!(answer.status().as_u16(), 429 | 503 | 504), "unexpected {}", answer.status());
                last = Some((body, ids));
            }
            Err(_) => last = Some((body, ids)),
        }
    }
}
