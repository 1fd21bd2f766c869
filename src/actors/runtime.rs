//! The shards: threads that each run one actix arbiter, and the way to start an actor on one of them.
//!
//! actix can neither start an actor from another runtime's thread nor make an arbiter without a `System`; this module is
//! the only place that knows. One thread owns the `System`, whose own arbiter is shard 0; shards 1 to N − 1 are further
//! arbiters. A panic ends the task that panicked, never the shard.
//!
//! Stop: actors have ended before (see [`super::directory`]); the arbiters are then told to stop, joined in order, and the
//! `System` last. What still runs on a shard is dropped there, which answers its tickets.

use crate::model::tenant::TenantId;
use actix::{Arbiter, ArbiterHandle, System};
use std::{
    io,
    sync::{Arc, mpsc},
    thread,
};

/// The shards' threads. Dropping it tells them to stop without waiting.
pub struct Runtime {
    shards: Shards,
    system: System,
    thread: Option<thread::JoinHandle<()>>,
}

impl Runtime {
    /// Starts `shards` threads (at least one) called `name`. Blocks until they run. Panics where the operating system
    /// refuses a thread, as `std::thread::spawn` does: it is called while the process starts.
    pub fn start(name: &str, shards: usize) -> Self {
        let (ready, started) = mpsc::sync_channel(1);
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || run(shards.max(1), &ready))
            .expect("the operating system gives a thread at start-up");
        let (system, shards) = started
            .recv()
            .expect("the thread of the actor system answers")
            .expect("the operating system gives the shards' threads at start-up");
        Self {
            shards,
            system,
            thread: Some(thread),
        }
    }

    /// The way to the shards.
    pub fn shards(&self) -> &Shards {
        &self.shards
    }

    /// Stops and joins all threads. Blocks until the turn that each of them is in has ended.
    pub fn stop(mut self) {
        self.system.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the actor system panicked");
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.system.stop();
    }
}

type Started = io::Result<(System, Shards)>;

fn run(shards: usize, ready: &mpsc::SyncSender<Started>) {
    let runner = System::new();
    let mut arbiters = Vec::new();
    for _ in 1..shards {
        match Arbiter::try_new() {
            Ok(arbiter) => arbiters.push(arbiter),
            Err(error) => {
                let _ = ready.send(Err(error));
                return;
            }
        }
    }
    let system = System::current();
    let handles = std::iter::once(system.arbiter().clone()).chain(arbiters.iter().map(Arbiter::handle));
    let shards = Shards(handles.collect());
    if ready.send(Ok((system, shards))).is_err() {
        return;
    }
    if let Err(error) = runner.run() {
        tracing::error!(%error, "the actor system ended with an error");
    }
    for arbiter in arbiters {
        arbiter.stop();
        if arbiter.join().is_err() {
            tracing::error!("the thread of a shard panicked");
        }
    }
}

/// The way to the shards from any thread. Cheap to clone.
#[derive(Clone)]
pub struct Shards(Arc<[ArbiterHandle]>);

impl Shards {
    /// The shard on which everything of `tenant` lives.
    pub fn of(&self, tenant: &TenantId) -> usize {
        (tenant.stable_hash() % self.0.len() as u64) as usize
    }

    /// Runs `work` on a shard soon; there, actors can be started. When the shard has stopped, `work` is dropped unrun.
    pub fn run(&self, shard: usize, work: impl FnOnce() + Send + 'static) {
        self.0[shard % self.0.len()].spawn_fn(work);
    }

    /// The arbiter of the current thread as the only shard: tests run actors on virtual time with it.
    #[cfg(test)]
    pub(crate) fn current() -> Self {
        Self([Arbiter::current()].into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_shard_is_a_thread_that_survives_a_panic_and_is_joined() {
        let runtime = Runtime::start("test-shards", 3);
        let (tx, rx) = mpsc::channel();
        let ask = |shard: usize| {
            let tx = tx.clone();
            runtime.shards().run(shard, move || tx.send(thread::current().id()).expect("asked"));
            rx.recv().expect("the shard answers")
        };
        let threads: HashSet<_> = (0..3).map(&ask).collect();
        assert_eq!(threads.len(), 3);
        for shard in 0..3 {
            runtime.shards().run(shard, || panic!("a test's own panic"));
        }
        assert_eq!((0..3).map(ask).collect::<HashSet<_>>(), threads, "the same threads go on");

        let shards = runtime.shards().clone();
        let alive = Arc::new(());
        for shard in 0..3 {
            let held = alive.clone();
            shards.run(shard, move || {
                actix::spawn(async move {
                    let _held = held;
                    std::future::pending::<()>().await
                });
            });
        }
        runtime.stop();
        assert_eq!(Arc::strong_count(&alive), 1, "what ran on the shards was dropped before stop returned");
    }
}
