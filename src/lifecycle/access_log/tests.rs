//! The service on an intake that takes, refuses, or stands still, in virtual time.

use super::{AccessLog, AccessLogSettings, Event, Who};
use crate::{
    auth::{Origin, Principal, Role},
    catalog::{Catalog, NewTenant, SettingsPatch},
    fs::sim::SimFs,
    model::{
        entry::{Field, StoredEntry},
        pack::Pack,
        render::write_entry,
        tenant::{TenantId, TenantScope},
    },
    objects::folder::FolderObjects,
    queue::{AcceptError, Accepted, Counters, Producer},
};
use futures_util::{FutureExt, future::BoxFuture};
use serde_json::{Value, json};
use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};
use uuid::Uuid;

/// What the intake does with packs.
#[derive(Clone)]
enum Mood {
    Takes,
    Refuses(AcceptError),
    StandsStill,
}

struct Intake {
    mood: watch::Sender<Mood>,
    packs: Mutex<Vec<Pack>>,
}

impl Intake {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            mood: watch::Sender::new(Mood::Takes),
            packs: Mutex::default(),
        })
    }

    fn packs(&self) -> Vec<Pack> {
        self.packs.lock().expect("no test panics with it").clone()
    }

    /// Everything that was taken, as the contract shows it.
    fn entries(&self, tenant: &str) -> Vec<Value> {
        let log = id(tenant).access_log();
        let shown = |pack: &Pack, i: usize| {
            let mut out = Vec::new();
            let entry = StoredEntry {
                record: pack.record(i),
                received_at: pack.header().received_at,
                actor: pack.header().actor.clone(),
                sequence: None,
            };
            write_entry(&mut out, pack.tenant(), &entry);
            serde_json::from_slice::<Value>(&out).expect("JSON")
        };
        let packs = self.packs();
        let own = packs.iter().filter(|pack| *pack.tenant() == log);
        own.flat_map(|pack| (0..pack.len()).map(|i| shown(pack, i)).collect::<Vec<_>>()).collect()
    }

    fn names(&self, tenant: &str) -> Vec<String> {
        let resource = |entry: &Value| entry["resource_id"].as_str().expect("text").to_owned();
        self.entries(tenant).iter().map(resource).collect()
    }
}

impl Producer for Intake {
    fn accept(&self, pack: Pack, _: Option<Duration>) -> BoxFuture<'_, Result<Accepted, AcceptError>> {
        async move {
            let mut mood = self.mood.subscribe();
            let now = mood
                .wait_for(|mood| !matches!(mood, Mood::StandsStill))
                .await
                .expect("the sender is here")
                .clone();
            match now {
                Mood::Refuses(error) => Err(error),
                Mood::Takes | Mood::StandsStill => {
                    self.packs
                        .lock()
                        .expect("no test panics with it")
                        .push(Pack::decode(pack.bytes().clone()).expect("well formed"));
                    Ok(Accepted { decided: None })
                }
            }
        }
        .boxed()
    }

    fn pending(&self, _: &TenantScope, _: Uuid) -> Option<StoredEntry> {
        None
    }

    fn room(&self, _: &TenantId) -> Result<(), AcceptError> {
        Ok(())
    }

    fn counters(&self, _: &TenantScope) -> Counters {
        Counters::default()
    }
}

fn id(name: &str) -> TenantId {
    TenantId::parse(name).expect("a tenant")
}

fn refusal() -> Mood {
    Mood::Refuses(AcceptError::Unavailable {
        reason: "no room",
        retry_after: Duration::from_secs(1),
    })
}

fn who() -> Who {
    let principal = Principal {
        subject: "ann".into(),
        tenant: Some(id("acme")),
        roles: vec![Role::Viewer, Role::Auditor],
        expires_at: None,
        origin: Origin::Key {
            tenant: id("acme"),
            key_id: "k7".into(),
        },
    };
    Who::new(&principal, "[::ffff:10.1.2.3]:4711".parse().expect("an address"), Some("curl/8"), "r-1".into())
}

fn search(n: usize) -> Event {
    Event::read("sluice.search", "log", n.to_string()).text("log", "audit").number("rows", n as u64)
}

async fn log(intake: &Arc<Intake>, settings: AccessLogSettings) -> (AccessLog, Catalog) {
    let objects = FolderObjects::open(Arc::new(SimFs::new()), Path::new("/objects").into()).expect("opened");
    let catalog = Catalog::open(Arc::new(objects)).await.expect("opened");
    for name in ["acme", "globex"] {
        let new = NewTenant {
            tenant_id: id(name),
            name: None,
            settings: SettingsPatch::default(),
        };
        catalog.create(new).await.expect("made");
    }
    (AccessLog::start(intake.clone(), catalog.clone(), settings), catalog)
}

async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

#[tokio::test(start_paused = true)]
async fn an_event_is_an_entry_of_the_second_log_and_says_who_what_and_from_where() {
    let intake = Intake::new();
    let (log, _) = log(&intake, AccessLogSettings::default()).await;
    let pairs = [("severity", "ERROR"), ("user_id", "bob"), ("severity", "INFO"), ("search", "a \"b\"\u{1}")];
    let event = Event::read("sluice.search", "log", "audit")
        .text("log", "audit")
        .filters(pairs.into_iter())
        .number("rows", 3);
    log.record(&id("acme"), &who(), &event);
    pass(Duration::from_millis(250)).await;
    let [entry] = intake.entries("acme").try_into().expect("one");
    assert_eq!(intake.packs()[0].tenant(), &id("acme").access_log());
    for (field, value) in [
        ("tenant_id", json!("acme")),
        ("action", json!("sluice.search")),
        ("resource_type", json!("log")),
        ("resource_id", json!("audit")),
        ("user_id", json!("ann")),
        ("actor", json!("sluice")),
        ("ip_address", json!("10.1.2.3")),
        ("user_agent", json!("curl/8")),
        ("request_id", json!("r-1")),
        ("severity", json!("INFO")),
        ("before_state", Value::Null),
    ] {
        assert_eq!(entry[field], value, "{field}");
    }
    let metadata = json!({"roles": ["viewer", "auditor"], "origin": "key", "key_id": "k7", "duration_ms": 0, "log": "audit",
        "filters": {"severity": ["ERROR", "INFO"], "user_id": "bob", "search": "a \"b\"\u{1}"}, "rows": 3});
    assert_eq!(entry["metadata"], metadata);
}

#[tokio::test(start_paused = true)]
async fn events_are_written_together_in_their_order_a_pack_per_tenant_within_the_linger() {
    let intake = Intake::new();
    let (log, _) = log(&intake, AccessLogSettings::default()).await;
    for n in 0..50 {
        log.record(&id("acme"), &who(), &search(n));
        log.record(&id("globex"), &who(), &search(n));
        pass(Duration::from_millis(1)).await;
    }
    assert!(intake.packs().is_empty(), "they wait for company");
    pass(Duration::from_millis(160)).await;
    let packs: Vec<(String, usize)> = intake.packs().iter().map(|p| (p.tenant().to_string(), p.len())).collect();
    assert!(packs.len() == 2 && packs.iter().all(|(_, n)| *n == 50), "{packs:?}");
    assert_eq!(intake.names("acme"), (0..50).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_change_is_durable_before_its_answer_and_takes_what_came_before_it_along() {
    let intake = Intake::new();
    let (log, _) = log(&intake, AccessLogSettings::default()).await;
    log.record(&id("acme"), &who(), &search(1));
    let began = Instant::now();
    log.changed(&id("acme"), &who(), &Event::change("sluice.tenant.update", "tenant", "acme")).await;
    assert_eq!(intake.names("acme"), ["1", "acme"]);
    assert!(began.elapsed() < Duration::from_millis(200), "it did not wait for company");
}

#[tokio::test(start_paused = true)]
async fn who_reads_the_log_waits_for_what_was_recorded_before() {
    let intake = Intake::new();
    let (log, _) = log(&intake, AccessLogSettings::default()).await;
    log.settled(&id("acme"), Duration::from_secs(1)).await;
    log.record(&id("acme"), &who(), &search(1));
    log.settled(&id("acme"), Duration::from_secs(1)).await;
    assert_eq!(intake.names("acme"), ["1"]);
    intake.mood.send_replace(Mood::StandsStill);
    log.record(&id("acme"), &who(), &search(2));
    let began = Instant::now();
    log.settled(&id("acme"), Duration::from_secs(1)).await;
    assert_eq!(began.elapsed(), Duration::from_secs(1), "not for ever");
}

#[tokio::test(start_paused = true)]
async fn plain_reads_are_left_out_where_they_are_not_wanted_and_nothing_is_written_for_no_tenant() {
    let intake = Intake::new();
    let (log, catalog) = log(&intake, AccessLogSettings::default()).await;
    let Value::Object(settings) = json!({"audit_reads": false}) else {
        unreachable!()
    };
    let patch = SettingsPatch::parse(&settings).expect("a setting");
    catalog.update(&id("acme"), None, patch).await.expect("updated");
    for tenant in ["acme", "globex", "nobody"] {
        log.record(&id(tenant), &who(), &search(1));
        log.changed(&id(tenant), &who(), &Event::change("sluice.cleanup", "log", "audit")).await;
    }
    log.stop().await;
    assert_eq!(intake.names("acme"), ["audit"]);
    assert_eq!(intake.names("globex"), ["1", "audit"]);
    assert!(intake.names("nobody").is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_intake_that_stands_still_or_refuses_never_delays_a_read() {
    let intake = Intake::new();
    let (log, _) = log(&intake, AccessLogSettings::default()).await;
    for mood in [Mood::StandsStill, refusal(), Mood::Takes] {
        intake.mood.send_replace(mood);
        let began = Instant::now();
        for n in 0..20_000 {
            log.record(&id("acme"), &who(), &search(n));
        }
        assert_eq!(began.elapsed(), Duration::ZERO, "nothing waited");
        pass(Duration::from_secs(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_stays_and_is_written_once_in_its_order() {
    let intake = Intake::new();
    let (log, _) = log(&intake, AccessLogSettings::default()).await;
    intake.mood.send_replace(refusal());
    let began = Instant::now();
    for n in 0..5 {
        log.record(&id("acme"), &who(), &search(n));
        pass(Duration::from_secs(1)).await;
    }
    log.changed(&id("acme"), &who(), &Event::change("sluice.cleanup", "log", "5")).await;
    assert!(began.elapsed() < Duration::from_secs(8), "a refused change is answered all the same");
    assert!(intake.packs().is_empty());
    intake.mood.send_replace(Mood::Takes);
    pass(Duration::from_secs(5)).await;
    assert_eq!(intake.names("acme"), ["0", "1", "2", "3", "4", "5"]);
}

#[tokio::test(start_paused = true)]
async fn what_has_no_room_is_counted_and_told_where_it_is_missing() {
    let intake = Intake::new();
    let settings = AccessLogSettings {
        tenant_bytes: 40_000,
        ..AccessLogSettings::default()
    };
    let (log, _) = log(&intake, settings).await;
    intake.mood.send_replace(Mood::StandsStill);
    for n in 0..1000 {
        log.record(&id("acme"), &who(), &search(n));
    }
    log.record(&id("globex"), &who(), &search(0));
    let change = Event::change("sluice.tenant.update", "tenant", "a change");
    drop(log.changed(&id("acme"), &who(), &change)); // reads leave room for it
    intake.mood.send_replace(Mood::Takes);
    pass(Duration::from_secs(2)).await;
    log.record(&id("acme"), &who(), &search(1000));
    log.stop().await;

    let entries = intake.entries("acme");
    let actions: Vec<_> = entries.iter().map(|e| e["action"].as_str().expect("text")).collect();
    let reads = actions.iter().filter(|a| **a == "sluice.search").count();
    let at = actions.iter().position(|a| *a == "sluice.dropped").expect("it is told");
    assert_eq!(actions.iter().filter(|a| **a == "sluice.dropped").count(), 1);
    let told = &entries[at];
    assert_eq!(
        told["metadata"]["count"].as_u64().expect("a number") + reads as u64,
        1001,
        "every read is there or counted"
    );
    assert_eq!((&told["user_id"], &told["severity"]), (&json!("sluice"), &json!("WARNING")));
    assert_eq!(entries[at + 1]["resource_id"], "a change", "it stands where the reads are missing");
    assert_eq!(intake.names("globex"), ["0"], "one tenant's flood is its own");
}

#[tokio::test(start_paused = true)]
async fn all_of_it_is_bounded_and_loss_is_told_also_when_nothing_more_happens() {
    let intake = Intake::new();
    let settings = AccessLogSettings {
        memory_bytes: 40_000,
        ..AccessLogSettings::default()
    };
    let (log, _) = log(&intake, settings).await;
    intake.mood.send_replace(Mood::StandsStill);
    for n in 0..1000 {
        log.record(&id("acme"), &who(), &search(n));
        assert!(log.0.lines().bytes() <= 40_000);
    }
    log.record(&id("globex"), &who(), &search(0));
    intake.mood.send_replace(Mood::Takes);
    pass(Duration::from_secs(2)).await;
    assert_eq!(log.0.lines().bytes(), 0);
    assert!(log.0.lines().is_empty());
    let [told] = intake.entries("globex").try_into().expect("one entry");
    assert_eq!((&told["action"], &told["metadata"]["count"]), (&json!("sluice.dropped"), &json!(1)));
    assert_eq!(intake.entries("acme").last().expect("some")["action"], "sluice.dropped");
}

#[tokio::test(start_paused = true)]
async fn a_pack_of_unknown_fate_is_not_sent_twice_and_told() {
    let intake = Intake::new();
    let (log, _) = log(&intake, AccessLogSettings::default()).await;
    intake.mood.send_replace(Mood::Refuses(AcceptError::Unknown));
    for n in 0..3 {
        log.record(&id("acme"), &who(), &search(n));
    }
    pass(Duration::from_millis(250)).await;
    intake.mood.send_replace(Mood::Takes);
    pass(Duration::from_secs(5)).await;
    let [told] = intake.entries("acme").try_into().expect("one entry");
    assert_eq!((&told["action"], &told["metadata"]["count"]), (&json!("sluice.dropped"), &json!(3)));
}

#[tokio::test(start_paused = true)]
async fn a_flood_is_cut_into_packs_that_fit_the_log() {
    let intake = Intake::new();
    let (log, _) = log(&intake, AccessLogSettings::default()).await;
    let long = "x".repeat(20_000);
    for n in 0..60 {
        let event = search(n).filters([("search", long.as_str())].into_iter());
        log.record(&id("acme"), &who(), &event);
    }
    log.stop().await;
    assert_eq!(intake.names("acme"), (0..60).map(|n| n.to_string()).collect::<Vec<_>>());
    assert!(intake.packs().iter().all(|pack| pack.bytes().len() < 300 << 10));
}

#[tokio::test(start_paused = true)]
async fn a_stop_writes_what_waits_and_ends_where_nothing_is_taken() {
    let intake = Intake::new();
    let (log_, _) = log(&intake, AccessLogSettings::default()).await;
    log_.record(&id("acme"), &who(), &search(1));
    log_.stop().await;
    assert_eq!(intake.names("acme"), ["1"]);
    log_.record(&id("acme"), &who(), &search(2));
    assert_eq!(intake.names("acme"), ["1"], "what comes later is not taken");

    let (log, _) = log(&intake, AccessLogSettings::default()).await;
    intake.mood.send_replace(refusal());
    log.record(&id("acme"), &who(), &search(3));
    log.stop().await;
}

#[test]
fn filters_that_are_too_long_are_told_as_far_as_they_fit_and_that_they_are_cut() {
    let long = "\u{1}".repeat(60_000);
    let event = Event::read("sluice.search", "log", "audit").filters([("user_id", "bob"), ("search", long.as_str())].into_iter());
    let metadata = event.encode(Some(&who()), 0, |entry| entry.fields[Field::Metadata as usize].expect("there").to_vec());
    assert!(metadata.len() < 200 << 10, "an entry has at most 256 KiB");
    let metadata: Value = serde_json::from_slice(&metadata).expect("JSON");
    assert_eq!((&metadata["filters"], &metadata["filters_cut"]), (&json!({"user_id": "bob"}), &json!(true)));
    let none = Event::read("sluice.search", "log", "audit").filters(std::iter::empty());
    let none = none.encode(None, 0, |entry| entry.fields[Field::Metadata as usize].expect("there").to_vec());
    assert_eq!(none, b"{}");
}
