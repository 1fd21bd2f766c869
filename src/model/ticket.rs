//! A ticket answers for one delivery, exactly once; an unsettled drop means: deliver again.

use tokio::sync::oneshot;

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Decided in a durable seal.
    Done,
    /// Not decided; deliver the pack again.
    Redeliver,
}

/// Answers for one delivery. Dropping it unsettled (panic, stop, lost message) answers [`Verdict::Redeliver`].
#[derive(Debug)]
#[must_use]
pub struct Ticket {
    reply: Option<oneshot::Sender<Verdict>>,
}

impl Ticket {
    /// A ticket and the place where its answer arrives.
    pub fn new() -> (Self, oneshot::Receiver<Verdict>) {
        let (reply, verdict) = oneshot::channel();
        (Self { reply: Some(reply) }, verdict)
    }

    /// Answers.
    pub fn settle(mut self, verdict: Verdict) {
        self.answer(verdict);
    }

    fn answer(&mut self, verdict: Verdict) {
        if let Some(reply) = self.reply.take() {
            // Nobody waits any more when the queue loop has ended; there is nobody left to tell.
            let _ = reply.send(verdict);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.answer(Verdict::Redeliver);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsettled_ticket_means_redelivery() {
        let (ticket, mut verdict) = Ticket::new();
        drop(ticket);
        assert_eq!(verdict.try_recv(), Ok(Verdict::Redeliver));
        let (ticket, mut verdict) = Ticket::new();
        ticket.settle(Verdict::Done);
        assert_eq!(verdict.try_recv(), Ok(Verdict::Done));
    }
}
