//! The sequencer as a queue of other machines sees it.

use super::{SequencerHandle, core::Order};
use crate::queue::remote::{NotOrdered, Ordered, Orders, RemoteOrder};
use futures_util::future::BoxFuture;

impl Orders for SequencerHandle {
    fn order(&self, order: RemoteOrder) -> BoxFuture<'static, Result<(), NotOrdered>> {
        let RemoteOrder { id: job, tenant, what } = order;
        let order = match what {
            Ordered::Erase { kind, cutoff } => Order::Erase { tenant, kind, cutoff, job },
            Ordered::Retire => Order::Retire { tenant, job },
        };
        let done = self.order_durably(order);
        Box::pin(async move { done.await.map_err(|_| NotOrdered) })
    }
}
