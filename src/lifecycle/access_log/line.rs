//! What waits to be written, tenant by tenant: bounded in bytes, in the order in which it happened, and nothing is left out
//! silently.
//!
//! What does not fit is counted, and told by an entry `sluice.dropped` that stands where it is missing: before the next event
//! that fits, or after the last one. Reads leave a quarter of the room to changes.

use super::{AccessLogSettings, event::Event};
use crate::{
    model::{
        entry::NewEntry,
        pack::{Pack, PackBuilder, PackHeader},
        tenant::TenantId,
    },
    telemetry::metrics::{AccessOutcome, metrics},
};
use std::collections::{HashMap, VecDeque};
use tokio::sync::oneshot;
use uuid::Uuid;

/// A pack takes no more events beyond this, bytes: it must fit into the smallest segment of the log.
const PACK_BYTES: usize = 256 << 10;
/// About what an event costs beside its record, and a line beside its events.
const OVERHEAD: usize = 64;

/// Told `true` when what it waits for is durable, `false` when that was refused for now.
pub(super) type Waiter = oneshot::Sender<bool>;

/// Everything that waits.
pub(super) struct Lines {
    settings: AccessLogSettings,
    lines: HashMap<TenantId, Line>,
    bytes: usize,
    closed: bool,
}

/// What waits of one tenant.
struct Line {
    log: TenantId,
    batches: VecDeque<Batch>,
    bytes: usize,
    lost: Option<Lost>,
    /// Those who wait for the batch that is on its way, if one is.
    away: Option<Vec<Waiter>>,
}

/// Events that become one pack.
struct Batch {
    form: Form,
    bytes: usize,
    waiters: Vec<Waiter>,
}

enum Form {
    Open(PackBuilder),
    /// It was refused once; it stays the same pack.
    Packed(Pack),
}

#[derive(Clone, Copy)]
struct Lost {
    count: u64,
    from: i64,
    to: i64,
}

/// A pack on its way to the log.
pub(super) struct Flight {
    tenant: TenantId,
    pub(super) pack: Pack,
    bytes: usize,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// It waits.
    Waits,
    /// It waits, and a pack is full.
    Full,
    /// There was no room; it is counted.
    Lost,
}

impl Lines {
    pub(super) fn new(settings: AccessLogSettings) -> Self {
        Self {
            settings,
            lines: HashMap::new(),
            bytes: 0,
            closed: false,
        }
    }

    /// Takes an event of a tenant.
    pub(super) fn push(&mut self, tenant: &TenantId, entry: &NewEntry<'_>, is_read: bool, waiter: Option<Waiter>) -> Kept {
        let (bytes, now) = (entry.encoded_len() + OVERHEAD, entry.timestamp);
        let part = |all: usize| if is_read { all / 4 * 3 } else { all };
        let line = self.lines.entry(tenant.clone()).or_insert_with(|| Line::new(tenant));
        let fits = self.bytes + bytes <= part(self.settings.memory_bytes) && line.bytes + bytes <= part(self.settings.tenant_bytes);
        if self.closed || !fits {
            let lost = line.lost.get_or_insert(Lost { count: 0, from: now, to: now });
            *lost = Lost {
                count: lost.count + 1,
                from: lost.from.min(now),
                to: lost.to.max(now),
            };
            metrics().access(AccessOutcome::Dropped, 1);
            return Kept::Lost;
        }
        if let Some(lost) = line.lost.take() {
            self.bytes += line.tell(lost, now);
        }
        let batch = line.open(PACK_BYTES - bytes.min(PACK_BYTES));
        batch.add(entry, bytes);
        batch.waiters.extend(waiter);
        let full = batch.bytes >= PACK_BYTES / 2;
        line.bytes += bytes;
        self.bytes += bytes;
        if full { Kept::Full } else { Kept::Waits }
    }

    /// Lets `waiter` know when everything that the tenant has waiting is durable; gives it back when nothing waits.
    pub(super) fn attend(&mut self, tenant: &TenantId, waiter: Waiter) -> Option<Waiter> {
        let Some(line) = self.lines.get_mut(tenant) else { return Some(waiter) };
        match (line.batches.back_mut(), &mut line.away) {
            (Some(batch), _) => batch.waiters.push(waiter),
            (None, Some(away)) => away.push(waiter),
            (None, None) => return Some(waiter),
        }
        None
    }

    /// The first batch of every tenant, as packs. Until it has landed, no other of that tenant departs.
    pub(super) fn depart(&mut self, now: i64) -> Vec<Flight> {
        let mut flights = Vec::new();
        for (tenant, line) in self.lines.iter_mut().filter(|(_, line)| line.away.is_none()) {
            if line.batches.len() <= 1
                && let Some(lost) = line.lost.take()
            {
                self.bytes += line.tell(lost, now);
            }
            let Some(batch) = line.batches.pop_front() else { continue };
            let pack = match batch.form {
                Form::Packed(pack) => pack,
                Form::Open(builder) => pack(builder, &line.log, now),
            };
            line.away = Some(batch.waiters);
            flights.push(Flight {
                tenant: tenant.clone(),
                pack,
                bytes: batch.bytes,
            });
        }
        flights
    }

    /// The pack is durable.
    pub(super) fn landed(&mut self, flight: &Flight) {
        self.done(flight, true);
    }

    /// It is not known whether the pack is durable: it is not sent again, and told as lost.
    pub(super) fn vanished(&mut self, flight: &Flight, now: i64) {
        let count = flight.pack.len() as u64;
        let first = flight.pack.entry(0).timestamp();
        if let Some(line) = self.lines.get_mut(&flight.tenant) {
            let lost = line.lost.get_or_insert(Lost {
                count: 0,
                from: first,
                to: now,
            });
            lost.count += count;
            lost.from = lost.from.min(first);
        }
        metrics().access(AccessOutcome::Dropped, count);
        self.done(flight, false);
    }

    fn done(&mut self, flight: &Flight, durable: bool) {
        self.bytes -= flight.bytes;
        let Some(line) = self.lines.get_mut(&flight.tenant) else { return };
        line.bytes -= flight.bytes;
        for waiter in line.away.take().unwrap_or_default() {
            let _ = waiter.send(durable); // it may wait no longer
        }
        if line.batches.is_empty() && line.lost.is_none() {
            self.lines.remove(&flight.tenant);
        }
    }

    /// The pack was refused, nothing of it was kept: it is the first to depart again, as it is.
    pub(super) fn refused(&mut self, flight: Flight) {
        let Some(line) = self.lines.get_mut(&flight.tenant) else { return };
        let behind = line.batches.iter_mut().flat_map(|batch| batch.waiters.drain(..));
        for waiter in line.away.take().unwrap_or_default().into_iter().chain(behind) {
            let _ = waiter.send(false); // it may wait no longer
        }
        line.batches.push_front(Batch {
            form: Form::Packed(flight.pack),
            bytes: flight.bytes,
            waiters: Vec::new(),
        });
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Whether more waits than departs in one go.
    pub(super) fn is_behind(&self) -> bool {
        self.lines.values().any(|line| line.batches.len() > 1)
    }

    /// Takes no more. What waits may still depart.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// Gives up what waits; how many events that is.
    pub(super) fn give_up(&mut self) -> u64 {
        self.bytes = 0;
        let lines = std::mem::take(&mut self.lines);
        let waiting: u64 = lines.values().flat_map(|line| &line.batches).map(|batch| batch.form.len()).sum();
        metrics().access(AccessOutcome::Dropped, waiting);
        waiting + lines.values().filter_map(|line| line.lost).map(|lost| lost.count).sum::<u64>()
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Line {
    fn new(tenant: &TenantId) -> Self {
        Self {
            log: tenant.access_log(),
            batches: VecDeque::new(),
            bytes: 0,
            lost: None,
            away: None,
        }
    }

    /// The batch that takes events: the last one if it has not more than `most` bytes, else a new one.
    fn open(&mut self, most: usize) -> &mut Batch {
        let room = |batch: &Batch| matches!(batch.form, Form::Open(_)) && batch.bytes <= most;
        if !self.batches.back().is_some_and(room) {
            self.batches.push_back(Batch {
                form: Form::Open(PackBuilder::default()),
                bytes: 0,
                waiters: Vec::new(),
            });
        }
        self.batches.back_mut().expect("there is one now")
    }

    /// Writes down what was lost; how many bytes that takes. It has room in any case: it stands for what had none.
    fn tell(&mut self, lost: Lost, now: i64) -> usize {
        let event = Event::dropped(self.log.owner_name(), lost.count, lost.from, lost.to);
        let bytes = event.encode(None, now, |entry| {
            let bytes = entry.encoded_len() + OVERHEAD;
            self.open(PACK_BYTES - bytes).add(entry, bytes);
            bytes
        });
        self.bytes += bytes;
        bytes
    }
}

impl Batch {
    fn add(&mut self, entry: &NewEntry<'_>, bytes: usize) {
        if let Form::Open(builder) = &mut self.form {
            builder.push(entry);
            self.bytes += bytes;
        }
    }
}

impl Form {
    fn len(&self) -> u64 {
        match self {
            Self::Open(builder) => builder.len() as u64,
            Self::Packed(pack) => pack.len() as u64,
        }
    }
}

fn pack(builder: PackBuilder, log: &TenantId, now: i64) -> Pack {
    let header = PackHeader {
        pack_id: Uuid::now_v7(),
        tenant: log.clone(),
        actor: super::ACTOR.into(),
        request_id: "".into(),
        received_at: now,
        part: (0, 1),
    };
    builder.finish(header).expect("a batch is made for an event")
}
