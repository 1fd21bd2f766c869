//! Clients of a phase: writers and readers, each class with its pace. In an open loop a latency counts from the time at which a request was due,
//! whatever kept it from being sent then, so that a server that stands still is seen in the latency of everything that should have
//! happened meanwhile. In a closed loop a request is due when its connection has the answer to the one before.

use crate::{
    arrivals::{Pace, Schedule, Zipf},
    bodies::Template,
    http::{Address, Client, Connection},
    ids::Answer,
    measure::Latencies,
    scenario::{Phase, Question, Readers, Writers},
    site::{Sample, Tenants},
};
use anyhow::{Context, ensure};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use sluice::cli::demo::generator::Generator;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Bodies that a connection repeats.
const BODIES: usize = 8;
/// How long a client of a closed loop waits after a refusal.
const REFUSED: Duration = Duration::from_millis(50);
/// An open loop that is behind by so much at its end is not waited for.
const BEHIND: Duration = Duration::from_secs(60);
/// One in so many requests is kept to be asked for.
const SAMPLED: usize = 8;

/// When a phase begins, ends, and from when on latencies count.
#[derive(Clone, Copy)]
pub struct Span {
    pub start: Instant,
    pub warm: Instant,
    pub end: Instant,
}

impl Span {
    /// From now on.
    pub fn of(phase: &Phase) -> Self {
        let start = Instant::now();
        Self {
            start,
            warm: start + Duration::from_secs_f64(phase.warm_up),
            end: start + Duration::from_secs_f64(phase.seconds),
        }
    }
}

/// What a class saw.
#[derive(Default)]
pub struct Seen {
    pub latencies: Latencies,
    /// From the time that a request was due until it was sent.
    pub late: Latencies,
    /// Requests that were due and never sent.
    pub unsent: u64,
}

/// Entries of a phase by what was said to them.
#[derive(Default)]
pub struct Counts {
    acked: AtomicU64,
    refused: AtomicU64,
    unanswered: AtomicU64,
}

impl Counts {
    fn add(&self, answer: Answer, entries: usize) {
        let to = match answer {
            Answer::Acked => &self.acked,
            Answer::Refused => &self.refused,
            Answer::Unanswered => &self.unanswered,
        };
        to.fetch_add(entries as u64, Ordering::Relaxed);
    }

    /// Acknowledged, refused, without an answer.
    pub fn get(&self) -> [u64; 3] {
        [&self.acked, &self.refused, &self.unanswered].map(|count| count.load(Ordering::Relaxed))
    }
}

/// What the clients of a class share.
pub struct Class {
    address: Address,
    tenants: Arc<Tenants>,
    pace: Pace,
    span: Span,
    /// Nothing is sent any more.
    stopped: CancellationToken,
    /// The server is killed meanwhile: requests may be without an answer.
    killed: bool,
    counts: Arc<Counts>,
    seen: Mutex<Seen>,
}

/// What every class of a phase is told.
pub struct Common {
    pub address: Address,
    pub span: Span,
    pub stopped: CancellationToken,
    pub killed: bool,
    pub counts: Arc<Counts>,
}

impl Common {
    fn class(&self, tenants: Arc<Tenants>, pace: Pace) -> Arc<Class> {
        Arc::new(Class {
            address: self.address.clone(),
            tenants,
            pace,
            span: self.span,
            stopped: self.stopped.clone(),
            killed: self.killed,
            counts: self.counts.clone(),
            seen: Mutex::default(),
        })
    }

    fn pace(&self, requests_per_s: Option<f64>, arrivals: crate::arrivals::Arrivals, seed: u64) -> anyhow::Result<Pace> {
        match requests_per_s {
            Some(rate) => Pace::open(Schedule::new(arrivals, rate, seed), self.span.start, self.span.end),
            None => Ok(Pace::Closed(self.span.end)),
        }
    }
}

impl Class {
    /// Ends it: what it saw.
    pub async fn finish(&self) -> Seen {
        let unsent = if self.stopped.is_cancelled() { 0 } else { self.pace.unsent().await };
        let mut seen = std::mem::take(&mut *self.seen.lock().expect("whole"));
        seen.unsent = unsent;
        seen
    }

    /// When the next request was due; `None` when that was all.
    async fn next(&self) -> anyhow::Result<Option<Instant>> {
        if self.stopped.is_cancelled() || Instant::now() > self.span.end + BEHIND {
            return Ok(None);
        }
        tokio::select! {
            () = self.stopped.cancelled() => Ok(None),
            next = self.pace.next() => next,
        }
    }

    fn record(&self, due: Instant, sent: Instant) {
        if due >= self.span.warm {
            let mut seen = self.seen.lock().expect("nothing panics while it holds this lock");
            seen.latencies.push(due.elapsed());
            seen.late.push(sent.duration_since(due));
        }
    }
}

/// Starts the writers of a class.
pub async fn write(writers: &Writers, tenants: Arc<Tenants>, common: &Common, tasks: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<Arc<Class>> {
    let rate = writers.rate.map(|rate| rate / writers.entries as f64);
    let class = common.class(tenants, common.pace(rate, writers.arrivals, 1)?);
    let zipf = Arc::new(Zipf::new(class.tenants.all.len(), writers.zipf));
    for n in 0..writers.connections {
        let writer = Writer {
            client: Client::new(class.address.clone()).await?,
            class: class.clone(),
            zipf: zipf.clone(),
            entries: writers.entries,
            rng: StdRng::seed_from_u64(n as u64),
        };
        tasks.spawn(writer.run(n));
    }
    Ok(class)
}

struct Writer {
    client: Client,
    class: Arc<Class>,
    zipf: Arc<Zipf>,
    entries: usize,
    rng: StdRng,
}

impl Writer {
    async fn run(mut self, n: usize) -> anyhow::Result<()> {
        let (mut generator, single) = (Generator::new(n as u64), self.entries == 1);
        let mut bodies: Vec<Template> = (0..BODIES).map(|_| Template::new(&mut generator, self.entries, !single)).collect();
        let path = if single { "/api/v1/logs" } else { "/api/v1/logs/bulk?ids=false" };
        let (mut ids, mut turn) = (Vec::new(), 0);
        while let Some(due) = self.class.next().await? {
            let (class, at) = (self.class.clone(), self.zipf.pick(&mut self.rng));
            let tenant = &class.tenants.all[at];
            let body = &mut bodies[turn % BODIES];
            ids.clear();
            body.renew(&mut ids);
            let connection = self.client.connected().await?;
            let sent = Instant::now();
            let answer = match connection.post(path, &tenant.who.1, &body.body).await {
                Ok(status) => Answer::of(status).with_context(|| format!("status {status}"))?,
                Err(error) => {
                    ensure!(class.killed, "a request broke off: {error:#}");
                    self.client.broken();
                    Answer::Unanswered
                }
            };
            class.counts.add(answer, ids.len());
            tenant.note(answer, ids.iter().copied());
            if answer == Answer::Acked {
                class.record(due, sent);
                if turn.is_multiple_of(SAMPLED) {
                    class.tenants.sample(Sample {
                        tenant: at,
                        id: ids[ids.len() - 1],
                        request: body.last_request(),
                    });
                }
            } else if answer == Answer::Refused && matches!(class.pace, Pace::Closed(_)) {
                sleep(REFUSED).await;
            }
            turn += 1;
        }
        Ok(())
    }
}

/// Starts the readers of a class.
pub async fn read(readers: &Readers, tenants: Arc<Tenants>, common: &Common, tasks: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<Arc<Class>> {
    let class = common.class(tenants, common.pace(readers.rate, readers.arrivals, 2)?);
    for n in 0..readers.connections {
        let client = Client::new(class.address.clone()).await?;
        match readers.ask {
            Question::Feed => tasks.spawn(follow(class.clone(), n)),
            Question::Visible => tasks.spawn(probe(class.clone(), client, n)),
            asked => tasks.spawn(ask(class.clone(), client, asked, n)),
        };
    }
    Ok(class)
}

/// Asks until the end.
async fn ask(class: Arc<Class>, mut client: Client, asked: Question, n: usize) -> anyhow::Result<()> {
    let mut rng = StdRng::seed_from_u64(n as u64);
    while let Some(due) = class.next().await? {
        let tenant = rng.random_range(0..class.tenants.all.len());
        let (path, tenant) = match (asked, class.tenants.sampled(rng.random_range(0..usize::MAX))) {
            (Question::Get, Some(of)) => (format!("/{}", of.id), of.tenant),
            (Question::Needle, Some(of)) => (format!("?request_id={}", of.request), of.tenant),
            (Question::Search, _) => ("?search=login%20failed&total=false".to_owned(), tenant),
            (Question::Stats, _) => ("/stats".to_owned(), tenant),
            // A list too while there is no entry yet that could be asked for.
            _ => ("?page_size=50&total=false".to_owned(), tenant),
        };
        let (path, token) = (format!("/api/v1/logs{path}"), &class.tenants.all[tenant].who.1);
        let connection = client.connected().await?;
        let sent = Instant::now();
        match connection.get(&path, token).await {
            Ok((200, _)) => class.record(due, sent),
            // A process that starts: reads come later than writes.
            Ok((503, _)) if class.killed => {}
            Ok((status, _)) => anyhow::bail!("{path}: {status}"),
            Err(error) => {
                ensure!(class.killed, "a request broke off: {error:#}");
                client.broken();
            }
        }
    }
    Ok(())
}

/// Sends an entry of its own and asks for it until it is there.
async fn probe(class: Arc<Class>, mut client: Client, n: usize) -> anyhow::Result<()> {
    let tenant = &class.tenants.all[n % class.tenants.all.len()];
    let token = &tenant.who.1;
    let (mut body, mut ids) = (Template::new(&mut Generator::new(n as u64), 1, false), Vec::new());
    while let Some(due) = class.next().await? {
        ids.clear();
        body.renew(&mut ids);
        let connection = client.connected().await?;
        let status = connection.post("/api/v1/logs", token, &body.body).await?;
        ensure!(status == 201, "a probe: {status}");
        let accepted = Instant::now();
        tenant.note(Answer::Acked, ids.iter().copied());
        class.counts.add(Answer::Acked, 1);
        let path = format!("/api/v1/logs?total=false&id={}", ids[0]);
        loop {
            let (status, body) = connection.get(&path, token).await?;
            ensure!(status == 200, "{path}: {status}");
            if body.starts_with(b"{\"data\":[{") {
                break;
            }
        }
        if due >= class.span.warm {
            class
                .seen
                .lock()
                .expect("nothing panics while it holds this lock")
                .latencies
                .push(accepted.elapsed());
        }
    }
    Ok(())
}

/// Reads a tenant's feed until everybody stops.
async fn follow(class: Arc<Class>, n: usize) -> anyhow::Result<()> {
    let token = class.tenants.all[n % class.tenants.all.len()].who.1.clone();
    let mut connection = Connection::open(class.address.get()).await?;
    let mut last = None;
    let each = |line: &[u8]| {
        if let Some(number) = line.strip_prefix(b"id: ") {
            let number: u64 = std::str::from_utf8(number)?.parse()?;
            ensure!(last.is_none_or(|last| last < number), "the feed went back from {last:?} to {number}");
            last = Some(number);
        }
        if let Some(received) = received_at(line)
            && Instant::now() >= class.span.warm
        {
            let latency = (sluice::model::time::now_ms() - received).max(0).unsigned_abs();
            class.seen.lock().expect("whole").latencies.push(Duration::from_millis(latency));
        }
        Ok(())
    };
    tokio::select! {
        () = class.stopped.cancelled() => Ok(()),
        ended = connection.lines("/api/v1/logs/stream", &token, "text/event-stream", each) => {
            ended?;
            // The server may end a feed when it stops, and not before.
            anyhow::bail!("a feed ended")
        }
    }
}

/// When the entry of an event was accepted, in milliseconds; `None` for anything but an entry.
fn received_at(line: &[u8]) -> Option<i64> {
    const NAME: &[u8] = br#""received_at":""#;
    line.strip_prefix(b"data: {\"id\"")?;
    let at = memchr::memmem::find(line, NAME)? + NAME.len();
    let end = at + memchr::memchr(b'"', &line[at..])?;
    let time = chrono::DateTime::parse_from_rfc3339(std::str::from_utf8(&line[at..end]).ok()?).ok()?;
    Some(time.timestamp_millis())
}

/// An entry that is sent alone, until it is taken: what says that a server takes writes. Its id, and when it was answered.
pub async fn first_write(address: &Address, tenants: &Tenants) -> anyhow::Result<Instant> {
    let (tenant, mut client) = (&tenants.all[0], Client::new(address.clone()).await?);
    let mut body = Template::new(&mut Generator::new(7), 1, false);
    loop {
        let mut ids: Vec<Uuid> = Vec::new();
        body.renew(&mut ids);
        let status = client.connected().await?.post("/api/v1/logs", &tenant.who.1, &body.body).await?;
        let answer = Answer::of(status).with_context(|| format!("status {status}"))?;
        tenant.note(answer, ids);
        if answer == Answer::Acked {
            return Ok(Instant::now());
        }
        sleep(Duration::from_millis(1)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_says_when_its_entry_was_accepted() {
        let line = br#"data: {"id":"x","received_at":"2026-11-22T01:00:00.250Z","action":"A"}"#;
        let at = received_at(line).expect("a time");
        assert_eq!(
            chrono::DateTime::from_timestamp_millis(at).expect("a time").to_rfc3339(),
            "2026-11-22T01:00:00.250+00:00"
        );
        assert_eq!(received_at(br#"data: {"type":"void","from":1,"to":2}"#), None);
        assert_eq!(received_at(b"id: 7"), None);
    }
}
