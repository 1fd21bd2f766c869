//! The tenant actor: keeps one tenant's packs in order, batches them and hands the batches to the sequencer.
//!
//! The shell around [`core::Core`]: it turns effects into calls and timers. Packs come by the data lane (a bounded channel
//! joined as a stream, fair to neighbours: 16 packs a turn), [`messages`] by the mailbox. It awaits no I/O: a batch is
//! awaited by a task on the I/O runtime, which owns the tickets and outlives the actor.
//!
//! Holds nothing that redelivery cannot rebuild: a panic drops lane and queue, and every dropped ticket redelivers.

pub mod core;
pub mod handle;
pub mod messages;

use self::{
    core::{Core, CoreSettings, Effect, Input},
    messages::{Retire, Snapshot, TenantSnapshot},
};
use super::directory::Directory;
use crate::model::{
    batch::{Batch, Work},
    tenant::TenantId,
};
use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, SpawnHandle, StreamHandler, WrapFuture};
use futures_util::future::BoxFuture;
use std::{
    sync::Arc,
    task::{self, Poll, Waker},
};
use tokio::{runtime::Handle, sync::mpsc, task::coop::unconstrained, time::Instant};
use tokio_stream::wrappers::ReceiverStream;

/// Where batches go: the sequencer.
pub trait BatchSink: Send + Sync + 'static {
    /// Resolves when the batch was settled or dropped; its tickets have been answered then. The batches of one tenant are
    /// decided in the order in which their futures were first polled; each is polled first on the tenant's shard.
    fn submit(&self, batch: Batch) -> BoxFuture<'static, ()>;
}

/// What all tenant actors share.
pub(crate) struct Surroundings {
    pub(crate) settings: CoreSettings,
    pub(crate) sink: Arc<dyn BatchSink>,
    /// The runtime of everything that waits for I/O.
    pub(crate) io: Handle,
}

/// One incarnation of a tenant's actor.
pub struct TenantActor {
    core: Core,
    tenant: TenantId,
    generation: u64,
    directory: Arc<Directory>,
    timer: Option<(Instant, SpawnHandle)>,
}

impl TenantActor {
    /// An actor that reads `lane`. It never holds its own handle: its lane would never end.
    pub(crate) fn new(ctx: &mut Context<Self>, (tenant, generation): (TenantId, u64), lane: mpsc::Receiver<Box<Work>>, directory: Arc<Directory>) -> Self {
        Self::add_stream(ReceiverStream::new(lane), ctx);
        Self {
            core: Core::new(tenant.clone(), directory.surroundings().settings, Instant::now()),
            tenant,
            generation,
            directory,
            timer: None,
        }
    }

    fn on(&mut self, input: Input, ctx: &mut Context<Self>) {
        for effect in self.core.on(Instant::now(), input) {
            match effect {
                Effect::Submit(batch) => self.submit(batch, ctx),
                Effect::Leave => self.directory.leave(&self.tenant, self.generation),
                Effect::Stop => ctx.stop(),
            }
        }
        self.arm(ctx);
    }

    /// Leaves the actor free while the sequencer works.
    fn submit(&self, batch: Batch, ctx: &mut Context<Self>) {
        let Surroundings { sink, io, .. } = self.directory.surroundings();
        let mut job = {
            let _io = io.enter();
            Box::pin(unconstrained(sink.submit(batch)))
        };
        // The first poll takes the batch's place in the sink's order. On the I/O runtime two batches could change places.
        let first = {
            let _io = io.enter();
            job.as_mut().poll(&mut task::Context::from_waker(Waker::noop()))
        };
        let rest = async move {
            if first == Poll::Pending {
                job.await;
            }
        };
        let done = io.spawn(rest).into_actor(self).map(|end, actor, ctx| {
            if let Err(error) = end {
                tracing::error!(%error, "the sequencer's answer to a batch was lost; its packs are delivered again");
            }
            actor.on(Input::Settled, ctx);
        });
        ctx.spawn(done);
    }

    /// One timer at most, re-armed from the core. A later deadline lets the armed one fire first: packs need no new timer.
    fn arm(&mut self, ctx: &mut Context<Self>) {
        let Some(at) = self.core.next_deadline() else { return };
        if self.timer.is_some_and(|(armed, _)| armed <= at) {
            return;
        }
        if let Some((_, later)) = self.timer.take() {
            ctx.cancel_future(later);
        }
        let timer = ctx.run_later(at.saturating_duration_since(Instant::now()), |actor, ctx| {
            actor.timer = None;
            actor.on(Input::Tick, ctx);
        });
        self.timer = Some((at, timer));
    }
}

impl Actor for TenantActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.arm(ctx);
    }
}

impl StreamHandler<Box<Work>> for TenantActor {
    fn handle(&mut self, work: Box<Work>, ctx: &mut Context<Self>) {
        #[cfg(test)]
        assert_ne!(&*work.delivery.pack.header().request_id, crate::actors::testing::CRASH, "a test's own panic");
        self.on(Input::Work(*work), ctx);
    }

    /// The lane has ended. (The default would stop with packs queued.)
    fn finished(&mut self, ctx: &mut Context<Self>) {
        self.on(Input::Ended, ctx);
    }
}

impl Handler<Snapshot> for TenantActor {
    type Result = ();

    fn handle(&mut self, question: Snapshot, _: &mut Context<Self>) {
        let (queued_packs, queued_bytes, batches_in_flight) = self.core.holds();
        let _ = question.reply.send(TenantSnapshot {
            generation: self.generation,
            queued_packs,
            queued_bytes,
            batches_in_flight,
        });
    }
}

impl Handler<Retire> for TenantActor {
    type Result = ();

    fn handle(&mut self, _: Retire, ctx: &mut Context<Self>) {
        self.on(Input::Retire, ctx);
    }
}
