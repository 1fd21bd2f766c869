//! Stand-ins that cost next to nothing beside the real engines, so that a measurement is of Sluice: a queue in memory that speaks the
//! protocol of SQS, and gates before ClickHouse and OpenSearch that read every insert to its end, answer as the store would, and keep
//! nothing but the ids, 16 bytes each, under log and number. What else is asked of a store (schema, notes) goes through to the real one, whose
//! tables stay empty.
//!
//! They run in a process of their own (`loadtest blackhole …`), so that their CPU time is not that of the servers. `GET /__seen`
//! on each says what came in, `GET /__ids?LOG` on a gate gives the ids of a log in the order of their numbers, `POST /__down?SECONDS`
//! refuses everything for that long, and `POST /__slow?MILLISECONDS` answers so much later from then on.

mod clickhouse;
mod kept;
mod opensearch;
mod sqs;

use anyhow::Context;
use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use clickhouse::ClickHouse;
use http_body_util::BodyExt;
use kept::Kept;
use opensearch::OpenSearch;
use serde_json::{Value, json};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// Runs the stand-ins until the process is ended; prints `ADDR ADDR ADDR` (queue, ClickHouse, OpenSearch) once they listen.
pub async fn run(args: &[String]) -> anyhow::Result<()> {
    let [clickhouse, opensearch] = args else {
        anyhow::bail!("usage: loadtest blackhole CLICKHOUSE_URL OPENSEARCH_URL")
    };
    // Somebody may have said it before, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let queue = listen(Router::new().fallback(sqs::answer).with_state(Arc::default())).await?;
    let clickhouse = gate(clickhouse, Store::ClickHouse(ClickHouse::default())).await?;
    let opensearch = gate(opensearch, Store::OpenSearch(OpenSearch::default())).await?;
    println!("{queue} {clickhouse} {opensearch}");
    std::future::pending().await
}

async fn listen(router: Router) -> anyhow::Result<std::net::SocketAddr> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

async fn gate(upstream: &str, store: Store) -> anyhow::Result<std::net::SocketAddr> {
    let gate = Gate {
        upstream: upstream.trim_end_matches('/').to_owned(),
        client: reqwest::Client::builder().no_proxy().build()?,
        store,
        inserts: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        down_until: Mutex::new(None),
        slow_ms: AtomicU64::new(0),
    };
    listen(Router::new().fallback(through_gate).with_state(Arc::new(gate))).await
}

enum Store {
    ClickHouse(ClickHouse),
    OpenSearch(OpenSearch),
}

/// What stands before a store.
struct Gate {
    upstream: String,
    client: reqwest::Client,
    store: Store,
    inserts: AtomicU64,
    bytes: AtomicU64,
    down_until: Mutex<Option<Instant>>,
    slow_ms: AtomicU64,
}

async fn through_gate(State(gate): State<Arc<Gate>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let query = parts.uri.query().unwrap_or_default();
    match parts.uri.path() {
        "/__seen" => return axum::Json(gate.seen()).into_response(),
        "/__ids" => return gate.kept(|kept| kept.ids(query)).into_response(),
        "/__down" => {
            let until = Instant::now() + Duration::from_secs(query.parse().unwrap_or(0));
            *gate.down_until.lock().expect("whole") = Some(until);
            return StatusCode::OK.into_response();
        }
        "/__slow" => {
            gate.slow_ms.store(query.parse().unwrap_or(0), Ordering::Relaxed);
            return StatusCode::OK.into_response();
        }
        _ => {}
    }
    let Ok(body) = body.collect().await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    if gate.down_until.lock().expect("whole").is_some_and(|until| Instant::now() < until) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let slow = gate.slow_ms.load(Ordering::Relaxed);
    if slow > 0 {
        tokio::time::sleep(Duration::from_millis(slow)).await;
    }
    let answer = match &gate.store {
        Store::ClickHouse(store) => store.answer(&gate, &parts, body.to_bytes()).await,
        Store::OpenSearch(store) => store.answer(&gate, &parts, body.to_bytes()).await,
    };
    answer.unwrap_or_else(|error| {
        eprintln!("a stand-in was sent what it does not understand: {error:#}");
        (StatusCode::BAD_REQUEST, error.to_string()).into_response()
    })
}

impl Gate {
    fn inserted(&self, bytes: usize) {
        self.inserts.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn kept<T>(&self, read: impl FnOnce(&Kept) -> T) -> T {
        match &self.store {
            Store::ClickHouse(store) => read(&store.state().kept),
            Store::OpenSearch(store) => read(&store.kept()),
        }
    }

    fn seen(&self) -> Value {
        let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (rows, twice) = self.kept(|kept| (kept.rows, kept.twice));
        let more = match &self.store {
            Store::ClickHouse(store) => store.seen(),
            Store::OpenSearch(_) => Value::Null,
        };
        json!({"inserts": number(&self.inserts), "bytes": number(&self.bytes), "rows": rows, "twice": twice, "more": more})
    }

    /// Asks the real store.
    async fn through(&self, parts: &Parts, body: Bytes) -> anyhow::Result<Response> {
        let url = format!("{}{}", self.upstream, parts.uri.path_and_query().map_or("/", |p| p.as_str()));
        let mut headers = parts.headers.clone();
        for name in ["host", "content-length", "transfer-encoding"] {
            headers.remove(name);
        }
        let answer = self.client.request(parts.method.clone(), url).headers(headers).body(body).send().await?;
        let mut response = Response::builder().status(answer.status());
        for (name, value) in answer
            .headers()
            .iter()
            .filter(|(name, _)| *name != "transfer-encoding" && *name != "content-length")
        {
            response = response.header(name, value);
        }
        response.body(Body::from(answer.bytes().await?)).context("an answer")
    }
}
