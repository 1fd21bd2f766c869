//! The whole surface, by `oneshot` and over real sockets, on a store that is a list: the contract's sentences one by one.

mod access_log;
mod cleanup;
mod credentials;
mod deletion;
mod export;
mod export_jobs;
mod feed;
mod ingest;
mod letters;
mod limits;
mod lists;
mod logins;
mod masking;
mod reads;
mod server;
mod settings;
mod tenancy;
mod tls;
mod web;

use super::{CursorKey, Drain, Health, HttpSettings, Services, dispatch, health::Phase, layers, safety::Safety, state::App};
use crate::{
    actors::{
        broadcast::{FeedHandle, FeedSettings, Publisher},
        sequencer::Ended,
    },
    auth::{
        jwt::{Authenticator, NewToken, mint},
        login::Logins,
    },
    catalog::{Catalog, NewTenant, SettingsPatch},
    fs::sim::SimFs,
    lifecycle::{
        access_log::{AccessLog, AccessLogSettings},
        deletion::{Deletions, Parts as DeletionParts},
        erasure::{Eraser, Orders},
        export::{ExportSettings, Exports, Parts},
    },
    model::{
        entry::StoredEntry,
        filter::{Filter, Surroundings},
        pack::Pack,
        tenant::{TenantId, TenantScope},
        time::now_ms,
    },
    objects::{Objects, folder::FolderObjects},
    queue::{AcceptError, Accepted, Counters, Decided, Position, Producer},
    seal::{DecidedSeal, Decision, Seal, SealPack, SealTenant, erasure::ErasureKind, state::SealState},
    sinks::{Authority, Condition, Count, ListPage, ListQuery, Scan, Sort, Stats, StatsQuery, StoreError, VisibleHead, dead_letter::DeadLetters},
};
use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, StatusCode, header},
};
use futures_util::future::{BoxFuture, FutureExt, ready};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::{
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};
use tokio::sync::watch;
use tower::ServiceExt;
use uuid::Uuid;

const SECRET: &[u8] = b"a secret of thirty-two bytes or more";

/// A queue and a store in one: packs are decided in the order of their arrival.
struct Shelf {
    state: Mutex<State>,
    visible: watch::Sender<u64>,
    feed: OnceLock<FeedHandle>,
    letters: OnceLock<DeadLetters>,
}

#[derive(Default)]
struct State {
    rows: Vec<(TenantId, StoredEntry)>,
    packs: Vec<Pack>,
    seals: u64,
    decided: Decided,
    /// The next packs are answered so.
    refusal: Option<AcceptError>,
    /// There is no room, said before a body is read.
    full: Option<AcceptError>,
    /// Entries cannot be decided and are refused.
    poisons: bool,
    /// Packs are durable and stay undecided.
    holds: bool,
    /// Of the store of record, and of the one that answers searches.
    conditions: [Condition; 2],
    /// The queue is other machines': what is pending is not known.
    split: bool,
    pending: Vec<(TenantId, StoredEntry)>,
    /// How many rows the last erasure took; `None`: it cannot be said.
    erased: Option<u64>,
    /// Reads are answered so.
    sick: Option<StoreError>,
    /// After so many lists the store cannot read its data.
    lists_left: Option<usize>,
}

impl Shelf {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            visible: watch::channel(0).0,
            feed: OnceLock::new(),
            letters: OnceLock::new(),
        })
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().expect("no test panics while it holds this lock"))
    }

    fn decide(&self, pack: Pack) -> Decided {
        let tenant = pack.tenant().clone();
        let (seal, decided) = self.with(|state| {
            let mut head = head_of(state, &tenant);
            let (mut decisions, mut decided, first) = (Vec::new(), Decided::default(), head + 1);
            for (i, entry) in pack.entries().enumerate() {
                let known = state.rows.iter().find(|(t, e)| *t == tenant && e.entry().id() == entry.id());
                let decision = match known {
                    _ if state.poisons => Decision::Refused,
                    Some((_, e)) if e.entry().hash() == entry.hash() => Decision::Duplicate,
                    Some(_) => Decision::Conflict,
                    None => Decision::New,
                };
                match decision {
                    Decision::Duplicate => decided.duplicate += 1,
                    Decision::New => {
                        head += 1;
                        decided.stored += 1;
                        let row = stored(&pack, i, Some(head));
                        state.rows.push((tenant.clone(), row));
                    }
                    Decision::Conflict | Decision::Refused => decided.dead_lettered += 1,
                }
                decisions.push(decision);
            }
            state.seals += 1;
            if !tenant.is_access_log() {
                state.decided.stored += decided.stored;
                state.decided.duplicate += decided.duplicate;
                state.decided.dead_lettered += decided.dead_lettered;
            }
            let seal = Seal {
                n: state.seals,
                previous_crc: 0,
                owner: Uuid::nil(),
                sealed_at: now_ms(),
                chain_break: false,
                tenants: vec![SealTenant {
                    tenant: tenant.clone(),
                    head,
                    void: None,
                    stored: decided.stored,
                    duplicate: decided.duplicate,
                    dead_lettered: decided.dead_lettered,
                    accepted: pack.len() as u64,
                    bytes: pack.bytes().len() as u64,
                }],
                packs: vec![SealPack {
                    pack_id: pack.id(),
                    tenant: 0,
                    positions: [Position { segment: 1, offset: 0 }].into_iter().collect(),
                    decisions,
                    refusal: None,
                    first_sequence: first,
                }],
                erasures: Vec::new(),
                removed: Vec::new(),
                retired: Vec::new(),
                sources: Vec::new(),
            };
            let seal = DecidedSeal {
                seal,
                crc: 0,
                packs: vec![Arc::new(pack)],
                encoded_len: 0,
            };
            (Arc::new(seal), decided)
        });
        if let Some(letters) = self.letters.get() {
            letters.submit(&seal); // far from the bound where it would block
        }
        self.visible.send_replace(seal.seal.n);
        if let Some(feed) = self.feed.get() {
            feed.publish(&seal);
        }
        decided
    }
}

fn head_of(state: &State, tenant: &TenantId) -> u64 {
    state.rows.iter().filter(|(t, _)| t == tenant).count() as u64
}

fn stored(pack: &Pack, i: usize, sequence: Option<u64>) -> StoredEntry {
    StoredEntry {
        record: pack.record(i),
        received_at: pack.header().received_at,
        actor: pack.header().actor.clone(),
        sequence,
    }
}

fn matching(state: &State, scope: &TenantScope, filter: &Filter) -> Vec<StoredEntry> {
    let own = state.rows.iter().filter(|(t, _)| t == scope.tenant()).map(|(_, e)| e);
    own.filter(|e| {
        let around = Surroundings {
            sequence: e.sequence.unwrap_or_default(),
            actor: &e.actor,
        };
        filter.matches(&e.entry(), around)
    })
    .map(|e| filter.mask.as_ref().map_or_else(|| e.clone(), |mask| mask.entry(e)))
    .collect()
}

impl Producer for Shelf {
    fn accept(&self, pack: Pack, wait: Option<Duration>) -> BoxFuture<'_, Result<Accepted, AcceptError>> {
        async move {
            if pack.tenant().is_access_log() {
                // Another log: what is said about the first does not hold for it.
                self.decide(pack);
                return Ok(Accepted { decided: None });
            }
            let (refusal, holds) = self.with(|state| (state.refusal.clone(), state.holds));
            if let Some(refusal) = refusal {
                return Err(refusal);
            }
            self.with(|state| state.packs.push(pack.clone()));
            if holds {
                let waiting = (0..pack.len()).map(|i| (pack.tenant().clone(), stored(&pack, i, None)));
                self.with(|state| state.pending.extend(waiting));
                return Ok(Accepted { decided: None });
            }
            let decided = self.decide(pack);
            Ok(Accepted {
                decided: wait.map(|_| decided),
            })
        }
        .boxed()
    }

    fn pending(&self, scope: &TenantScope, id: Uuid) -> Option<StoredEntry> {
        self.with(|state| {
            let mut own = state.pending.iter().filter(|(t, _)| t == scope.tenant());
            own.find(|(_, e)| e.entry().id() == id).map(|(_, e)| e.clone())
        })
    }

    fn room(&self, _tenant: &TenantId) -> Result<(), AcceptError> {
        self.with(|state| state.full.clone().map_or(Ok(()), Err))
    }

    fn counters(&self, scope: &TenantScope) -> Counters {
        if scope.tenant().is_access_log() {
            return Counters::default(); // nothing is ever pending there
        }
        self.with(|state| Counters {
            accepted: state.packs.iter().map(|p| p.len() as u64).sum(),
            stored: state.decided.stored,
            duplicate: state.decided.duplicate,
            dead_lettered: state.decided.dead_lettered,
            pending: state.pending.len() as u64,
            erased: 0,
            bytes: 7,
        })
    }

    fn knows_pending(&self) -> bool {
        self.with(|state| !state.split)
    }
}

impl Authority for Shelf {
    fn get(&self, scope: &TenantScope, id: Uuid) -> BoxFuture<'static, Result<Option<StoredEntry>, StoreError>> {
        let found = self.with(|state| match &state.sick {
            Some(error) => Err(error.clone()),
            None => Ok(matching(state, scope, &Filter::default()).into_iter().find(|e| e.entry().id() == id)),
        });
        ready(found).boxed()
    }

    fn list(&self, scope: &TenantScope, query: ListQuery) -> BoxFuture<'static, Result<ListPage, StoreError>> {
        let page = self.with(|state| {
            if let Some(error) = &state.sick {
                return Err(error.clone());
            }
            if let Some(left) = &mut state.lists_left {
                *left = left.checked_sub(1).ok_or_else(|| StoreError::Damaged("a part".into()))?;
            }
            let mut found = matching(state, scope, &query.filter);
            match query.sort {
                Sort::TimestampAsc => found.sort_by_key(|e| (e.entry().timestamp(), e.sequence)),
                Sort::TimestampDesc => found.sort_by_key(|e| std::cmp::Reverse((e.entry().timestamp(), e.sequence))),
                Sort::SequenceAsc => found.sort_by_key(|e| e.sequence),
                Sort::SequenceDesc => found.sort_by_key(|e| std::cmp::Reverse(e.sequence)),
            }
            let as_of = query.upto.unwrap_or(u64::MAX).min(head_of(state, scope.tenant()));
            found.retain(|e| e.sequence <= Some(as_of));
            let total = found.len() as u64;
            if let Some(place) = query.after {
                let (at, place) = (|e: &StoredEntry| (e.entry().timestamp(), e.sequence), (place.timestamp, Some(place.sequence)));
                found.retain(|e| match query.sort {
                    Sort::TimestampAsc => at(e) > place,
                    Sort::TimestampDesc => at(e) < place,
                    Sort::SequenceAsc => e.sequence > place.1,
                    Sort::SequenceDesc => e.sequence < place.1,
                });
            }
            let mut page: Vec<_> = found.iter().skip(query.skip).take(query.limit).cloned().collect();
            let mut bytes = 0;
            let fits = |e: &&StoredEntry| {
                bytes += e.record.len();
                bytes <= query.max_bytes
            };
            page.truncate(page.iter().take_while(fits).count().max(1));
            Ok(ListPage {
                total: (query.count != Count::None).then_some(total),
                total_is_exact: query.count != Count::None,
                more: query.skip + page.len() < found.len(),
                reached: None,
                entries: page,
                as_of,
            })
        });
        ready(page).boxed()
    }

    fn stats(&self, scope: &TenantScope, query: StatsQuery) -> BoxFuture<'static, Result<Stats, StoreError>> {
        let total = self.with(|state| matching(state, scope, &query.filter).len() as u64);
        ready(Ok(Stats { total, ..Stats::default() })).boxed()
    }

    fn condition(&self, searched: bool) -> Condition {
        self.with(|state| state.conditions[usize::from(searched)])
    }

    fn scan(&self, scope: &TenantScope, filter: Filter, after: u64, limit: usize) -> BoxFuture<'static, Result<Scan, StoreError>> {
        let scan = self.with(|state| {
            let mut entries = matching(state, scope, &filter);
            entries.retain(|e| e.sequence > Some(after));
            let more = entries.len() > limit;
            entries.truncate(limit);
            let last = entries.last().and_then(|e| e.sequence);
            Scan {
                upto: last.filter(|_| more).unwrap_or_else(|| head_of(state, scope.tenant())),
                entries,
                voids: Vec::new(),
            }
        });
        ready(Ok(scan)).boxed()
    }

    fn count_erased(&self, _: &TenantScope, _: Uuid) -> BoxFuture<'static, Result<u64, StoreError>> {
        ready(self.with(|state| state.erased).ok_or(StoreError::Busy)).boxed()
    }

    fn count_would_erase(&self, scope: &TenantScope, _: ErasureKind, cutoff: i64) -> BoxFuture<'static, Result<u64, StoreError>> {
        let rows = self.with(|state| matching(state, scope, &Filter::default()));
        ready(Ok(rows.iter().filter(|e| e.entry().timestamp() < cutoff).count() as u64)).boxed()
    }

    fn visible_head(&self, scope: &TenantScope) -> VisibleHead {
        VisibleHead {
            head: self.with(|state| head_of(state, scope.tenant())),
        }
    }

    fn visible(&self) -> watch::Receiver<u64> {
        self.visible.subscribe()
    }
}

impl Orders for Shelf {
    fn erase(&self, tenant: TenantId, _: ErasureKind, cutoff: i64, _: Uuid) -> BoxFuture<'static, Result<(), Ended>> {
        self.with(|state| {
            let before = state.rows.len();
            state.rows.retain(|(t, e)| *t != tenant || e.entry().timestamp() >= cutoff);
            state.erased = state.sick.is_none().then_some((before - state.rows.len()) as u64);
        });
        ready(Ok(())).boxed()
    }

    fn retire(&self, tenant: TenantId, job: Uuid) -> BoxFuture<'static, Result<(), Ended>> {
        self.erase(tenant, ErasureKind::Retention, i64::MAX, job)
    }

    fn removed(&self, _: TenantId, _: Uuid, _: u64) -> BoxFuture<'static, Result<(), Ended>> {
        ready(Ok(())).boxed()
    }
}

/// The surface on a shelf, with the tenants `acme` and `globex`.
struct Bench {
    shelf: Arc<Shelf>,
    services: Services,
    app: Arc<App>,
    router: Router,
}

/// An answer, read whole.
struct Got {
    status: StatusCode,
    headers: HeaderMap,
    bytes: Vec<u8>,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.bytes)))
    }

    /// Checks that this is a whole problem document with this status and code, and gives it.
    #[track_caller]
    fn problem(&self, status: u16, code: &str) -> Value {
        let json = self.json();
        assert_eq!((self.status.as_u16(), json["code"].as_str()), (status, Some(code)), "{json}");
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(json["status"], status);
        assert_eq!(json["request_id"], self.headers["x-request-id"].to_str().expect("text"));
        for member in ["type", "title", "detail"] {
            assert!(json[member].as_str().is_some_and(|text| !text.is_empty()), "{member}: {json}");
        }
        assert!(json["errors"].is_array());
        assert_eq!(matches!(status, 429 | 503), self.headers.contains_key(header::RETRY_AFTER), "{json}");
        json
    }
}

fn token(tenant: Option<&str>, role: &str) -> String {
    token_until(tenant, role, now_ms() / 1000 + 3600)
}

fn token_until(tenant: Option<&str>, role: &str, exp: i64) -> String {
    let tenant = tenant.map(|t| TenantId::parse(t).expect("a tenant"));
    let token = NewToken {
        sub: "ann",
        tenant: tenant.as_ref(),
        role: &[role.to_owned()],
        exp,
    };
    mint(SECRET, &token)
}

fn entry(i: usize) -> Value {
    json!({"action": "LOGIN", "resource_type": "session", "resource_id": format!("r-{i}"), "message": format!("entry {i}")})
}

impl Bench {
    async fn new() -> Self {
        Self::with(HttpSettings::default()).await
    }

    async fn with(settings: HttpSettings) -> Self {
        let shelf = Shelf::new();
        let objects: Arc<dyn Objects> = Arc::new(FolderObjects::open(Arc::new(SimFs::new()), PathBuf::from("/objects")).expect("opened"));
        let catalog = Catalog::open(objects.clone()).await.expect("opened");
        for tenant in ["acme", "globex"] {
            let new = NewTenant {
                tenant_id: TenantId::parse(tenant).expect("a tenant"),
                name: None,
                settings: SettingsPatch::default(),
            };
            catalog.create(new).await.expect("made");
        }
        let feed = FeedHandle::new(shelf.clone(), FeedSettings::default());
        assert!(shelf.feed.set(feed.clone()).is_ok());
        let health = Arc::new(Health::new());
        health.set_phase(Phase::Ready);
        let jobs = Parts {
            objects: objects.clone(),
            authority: shelf.clone(),
            catalog: catalog.clone(),
            copying: None,
            compile: Arc::new(crate::http::compile_export),
            room: None,
            clock: now_ms,
        };
        let (dead_letters, eraser) = (
            DeadLetters::open(objects.clone(), 0),
            Eraser::new(shelf.clone(), shelf.clone(), &SealState::default()),
        );
        let export_jobs = Exports::start(jobs, ExportSettings::default());
        let deletion = DeletionParts {
            catalog: catalog.clone(),
            eraser: eraser.clone(),
            dead_letters: dead_letters.clone(),
            exports: export_jobs.clone(),
            tail: None,
        };
        assert!(shelf.letters.set(dead_letters.clone()).is_ok());
        let services = Services {
            deletions: Deletions::start(deletion, &Default::default()),
            producer: shelf.clone(),
            authority: shelf.clone(),
            feed,
            access_log: AccessLog::start(shelf.clone(), catalog.clone(), AccessLogSettings::default()),
            eraser,
            logins: Arc::new(Logins::new(catalog.clone(), SECRET, Duration::from_secs(3600))),
            auth: Arc::new(Authenticator::new(SECRET, Vec::new(), None, Some(catalog.clone()))),
            catalog,
            export_jobs,
            dead_letters,
            cursors: CursorKey::derive(SECRET),
            health,
            drain: Drain::new(),
            settings,
        };
        let app = App::new(services.clone());
        let router = layers::around(dispatch::routes(app.clone()), Safety::of(&app.services.settings));
        Self { shelf, services, app, router }
    }

    /// With credentials as this text of a configuration file says.
    fn accepting(mut self, dir: &std::path::Path, config: &str) -> Self {
        let catalog = self.services.catalog.clone();
        self.services.auth = Arc::new(crate::auth::testing::authenticator(SECRET, dir, config, Some(catalog)));
        self.app = App::new(self.services.clone());
        self.router = layers::around(dispatch::routes(self.app.clone()), Safety::of(&self.services.settings));
        self
    }

    async fn send(&self, request: Request<Body>) -> Got {
        let is_head = request.method() == "HEAD";
        let response = self.router.clone().oneshot(request).await.expect("never fails");
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("whole").to_bytes().to_vec();
        assert!(parts.headers.contains_key("x-request-id"), "every answer has an id");
        if let Some(len) = parts.headers.get(header::CONTENT_LENGTH).filter(|_| !is_head) {
            assert_eq!(len, &bytes.len().to_string(), "the length is the body's");
        }
        Got {
            status: parts.status,
            headers: parts.headers,
            bytes,
        }
    }

    async fn call(&self, method: &str, path: &str, token: &str, body: impl Into<Body>) -> Got {
        self.send(request(method, path, token).body(body.into()).expect("a request")).await
    }

    /// A GET below the base, as an admin of acme.
    async fn get(&self, path: &str) -> Got {
        self.call("GET", &format!("/api/v1{path}"), &token(Some("acme"), "admin"), "").await
    }

    /// A POST of JSON below the base, as an admin of acme.
    async fn post(&self, path: &str, body: &Value) -> Got {
        self.call("POST", &format!("/api/v1{path}"), &token(Some("acme"), "admin"), body.to_string())
            .await
    }

    /// Exports under way.
    fn exports(&self) -> usize {
        self.app.exports.running()
    }

    /// Waits until so many exports are under way.
    async fn exports_are(&self, n: usize) {
        while self.exports() != n {
            tokio::task::yield_now().await;
        }
    }

    async fn exports_end(&self) {
        self.exports_are(0).await;
    }

    fn packs(&self) -> usize {
        self.shelf.with(|state| state.packs.len())
    }
}

fn request(method: &str, path: &str, token: &str) -> axum::http::request::Builder {
    let request = Request::builder().method(method).uri(path);
    if token.is_empty() {
        request
    } else {
        request.header("authorization", format!("Bearer {token}"))
    }
}
