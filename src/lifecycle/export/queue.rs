//! Who works next: tenants in turn, and of each tenant the job that has waited longest. Pure: no clock, no tasks.

use crate::model::tenant::TenantId;
use std::collections::{HashMap, VecDeque};
use tokio::time::Instant;
use uuid::Uuid;

/// One job that wants to work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// Whose.
    pub tenant: TenantId,
    /// Which.
    pub job: Uuid,
    /// Since when nothing worked, if the last turn was in vain, and how many were.
    pub trouble: Option<(Instant, u32)>,
}

/// Jobs that wait. The number is bounded by who puts them in.
#[derive(Debug, Default)]
pub struct Queue {
    /// Tenants with a job in their lane, in the order of their turns.
    ring: VecDeque<TenantId>,
    lanes: HashMap<TenantId, VecDeque<Ticket>>,
    /// Jobs that must not be tried before a time.
    resting: Vec<(Instant, Ticket)>,
}

impl Queue {
    /// A new job: it comes after its tenant's others.
    pub fn push(&mut self, ticket: Ticket) {
        self.lane(&ticket).push_back(ticket);
    }

    /// A job that has had a turn and wants more: it comes before its tenant's others, which begin when it has ended, and
    /// after the other tenants' next turn.
    pub fn push_again(&mut self, ticket: Ticket) {
        self.lane(&ticket).push_front(ticket);
    }

    /// A job that could not work now. Others of its tenant go before it meanwhile.
    pub fn rest(&mut self, ticket: Ticket, until: Instant) {
        self.resting.push((until, ticket));
    }

    /// Takes whose turn it is.
    pub fn pop(&mut self, now: Instant) -> Option<Ticket> {
        let (due, resting) = std::mem::take(&mut self.resting).into_iter().partition(|(until, _)| *until <= now);
        self.resting = resting;
        for (_, ticket) in due {
            self.push_again(ticket);
        }
        let tenant = self.ring.pop_front()?;
        let lane = self.lanes.get_mut(&tenant)?;
        let ticket = lane.pop_front();
        if lane.is_empty() {
            self.lanes.remove(&tenant);
        } else {
            self.ring.push_back(tenant);
        }
        ticket
    }

    /// When the first of those that rest is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.resting.iter().map(|(until, _)| *until).min()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.resting.len() + self.lanes.values().map(VecDeque::len).sum::<usize>()
    }

    fn lane(&mut self, ticket: &Ticket) -> &mut VecDeque<Ticket> {
        let lane = self.lanes.entry(ticket.tenant.clone()).or_default();
        if lane.is_empty() {
            self.ring.push_back(ticket.tenant.clone());
        }
        lane
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn ticket(tenant: &str, job: u128) -> Ticket {
        Ticket {
            tenant: TenantId::parse(tenant).expect("a tenant"),
            job: Uuid::from_u128(job),
            trouble: None,
        }
    }

    #[test]
    fn a_tenant_with_many_long_jobs_does_not_keep_others_waiting() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for job in 0..5 {
            queue.push(ticket("flood", job));
        }
        assert_eq!(queue.pop(now), Some(ticket("flood", 0)));
        queue.push(ticket("acme", 7));
        queue.push_again(ticket("flood", 0)); // it wants another turn
        let order: Vec<u128> = std::iter::from_fn(|| queue.pop(now)).map(|t| t.job.as_u128()).collect();
        assert_eq!(order, [0, 7, 1, 2, 3, 4], "the flood is one turn ahead at most, and its first job goes first");
    }

    #[test]
    fn who_rests_is_passed_over_until_it_is_due() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let later = now + Duration::from_secs(5);
        queue.rest(ticket("acme", 1), later);
        queue.push(ticket("acme", 2));
        assert_eq!((queue.next_due(), queue.len()), (Some(later), 2));
        assert_eq!(queue.pop(now), Some(ticket("acme", 2)));
        assert_eq!(queue.pop(now), None);
        assert_eq!(queue.pop(later), Some(ticket("acme", 1)));
        assert_eq!((queue.next_due(), queue.len()), (None, 0));
    }
}
