//! Real sockets: protocols, slow and broken clients, shutdown.

use super::*;
use crate::http::serve;
use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

/// A bench behind a real socket.
pub struct Served {
    pub bench: Bench,
    pub address: SocketAddr,
    shutdown: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

impl Served {
    pub async fn new() -> Self {
        Self::with(HttpSettings::default()).await
    }

    pub async fn with(settings: HttpSettings) -> Self {
        let bench = Bench::with(settings.clone()).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (shutdown, asked) = oneshot::channel();
        let server = serve(listener, bench.router.clone(), settings, bench.services.drain.clone(), async {
            let _ = asked.await;
        });
        Self {
            bench,
            address,
            shutdown,
            server: tokio::spawn(server),
        }
    }

    /// Asks the server to stop, and waits until it has.
    pub async fn stop(self) {
        self.shutdown.send(()).expect("it is running");
        self.server.await.expect("no panic");
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("it listens")
    }

    /// The head of a POST of an entry that announces `len` bytes.
    fn head(len: usize) -> String {
        format!(
            "POST /api/v1/logs HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: {len}\r\n\r\n",
            token(Some("acme"), "admin")
        )
    }
}

pub async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(end) {
        assert_ne!(stream.read_buf(&mut seen).await.expect("open"), 0, "{}", String::from_utf8_lossy(&seen));
    }
    String::from_utf8(seen).expect("text")
}

#[tokio::test]
async fn a_connection_outlives_a_body_that_was_refused_unread() {
    let served = Served::new().await;
    let mut stream = served.connect().await;
    let refused = Served::head(1 << 20).replace("/logs ", "/logs?nonsense=1 ");
    let whole = [refused.as_bytes(), &vec![b' '; 1 << 20], b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n"].concat();
    stream.write_all(&whole).await.expect("open");
    let answers = read_until(&mut stream, "HTTP/1.1 200").await;
    assert!(answers.starts_with("HTTP/1.1 422"), "{answers}");

    // What would take too long to read is not: the answer says that the connection ends.
    let mut stream = served.connect().await;
    stream.write_all(Served::head(1 << 40).as_bytes()).await.expect("open");
    let answer = read_until(&mut stream, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("connection: close"), "{answer}");
    served.stop().await;
}

#[tokio::test]
async fn both_versions_of_http_answer_on_one_port() {
    // Without TLS none is used, but the client wants to know whose it would be.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let served = Served::new().await;
    for (client, version) in [
        (reqwest::Client::builder().http1_only(), "HTTP/1.1"),
        (reqwest::Client::builder().http2_prior_knowledge(), "HTTP/2.0"),
    ] {
        let client = client.build().expect("a client");
        let url = format!("http://{}/api/v1/logs/", served.address);
        let sent = client
            .post(&url)
            .bearer_auth(token(Some("acme"), "admin"))
            .body(entry(1).to_string())
            .send()
            .await;
        let sent = sent.expect("an answer");
        assert_eq!((sent.status().as_u16(), format!("{:?}", sent.version())), (201, version.to_owned()));
        let head = client.head(&url).bearer_auth(token(Some("acme"), "admin")).send().await.expect("an answer");
        assert_eq!(head.status(), 200);
        assert!(head.bytes().await.expect("whole").is_empty());
    }
    served.stop().await;
}

#[tokio::test]
async fn a_request_knows_the_address_at_the_other_end_of_its_socket() {
    let who = |request: axum::extract::Request| async move { crate::http::server::Peer::of(request.extensions()).0.to_string() };
    let router = Router::new().fallback(who);
    let called = router.clone().oneshot(Request::new(Body::empty())).await.expect("infallible");
    assert_eq!(called.into_body().collect().await.expect("whole").to_bytes(), "0.0.0.0:0", "no socket");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let server = tokio::spawn(serve(listener, router, HttpSettings::default(), Drain::new(), std::future::pending()));
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let own = stream.local_addr().expect("connected").to_string();
    let forged = "GET / HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 10.0.0.1\r\nforwarded: for=10.0.0.1\r\nconnection: close\r\n\r\n";
    stream.write_all(forged.as_bytes()).await.expect("open");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("text");
    assert!(answer.ends_with(&own), "{answer}");
    server.abort();
}

#[tokio::test]
async fn a_client_that_goes_away_inside_its_body_leaves_no_trace() {
    let served = Served::new().await;
    let body = entry(1).to_string();
    for cut in [0, 1, body.len() - 1] {
        let mut stream = served.connect().await;
        stream.write_all(Served::head(body.len()).as_bytes()).await.expect("open");
        stream.write_all(&body.as_bytes()[..cut]).await.expect("open");
        stream.shutdown().await.expect("open");
        let mut rest = Vec::new();
        // Whatever it is told, it is not that its entry was kept.
        let _ = stream.read_to_end(&mut rest).await;
        assert!(!String::from_utf8_lossy(&rest).contains(" 201 "));
    }
    assert_eq!(served.bench.packs(), 0);
    served.stop().await;
}

#[tokio::test]
async fn a_client_that_sends_nothing_or_half_a_head_is_cut_off() {
    let settings = HttpSettings {
        header_timeout: Duration::from_millis(100),
        ..HttpSettings::default()
    };
    let served = Served::with(settings).await;
    for part in ["", "P", "PRI * HTTP/2.0\r\n", "GET /health HTTP/1.1\r\nhost:"] {
        let mut stream = served.connect().await;
        stream.write_all(part.as_bytes()).await.expect("open");
        let mut rest = Vec::new();
        // Closed or reset, but in time and without an answer that says 200.
        let _ = stream.read_to_end(&mut rest).await;
        assert!(!String::from_utf8_lossy(&rest).contains(" 200 "), "{part}");
    }
}

#[tokio::test]
async fn connections_are_bounded_and_the_next_one_waits() {
    let settings = HttpSettings {
        max_connections: 1,
        ..HttpSettings::default()
    };
    let served = Served::with(settings).await;
    let ask = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut first = served.connect().await;
    first.write_all(ask).await.expect("open");
    read_until(&mut first, "_tenants\":0}").await;
    let mut second = served.connect().await;
    second.write_all(ask).await.expect("the kernel takes it");
    let mut byte = [0];
    let early = tokio::time::timeout(Duration::from_millis(100), second.peek(&mut byte)).await;
    assert!(early.is_err(), "nobody answers the second one while the first is open");
    drop(first);
    read_until(&mut second, "_tenants\":0}").await;
}

#[tokio::test]
async fn shutdown_finishes_the_request_in_hand_and_closes_idle_connections() {
    let served = Served::new().await;
    let body = entry(1).to_string();
    let mut idle = served.connect().await;
    idle.write_all(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("open");
    read_until(&mut idle, "_tenants\":0}").await;
    let mut busy = served.connect().await;
    let head = Served::head(body.len()).replace("host: x", "host: x\r\nexpect: 100-continue");
    busy.write_all(head.as_bytes()).await.expect("open");
    // The server asks for the body, so the request is in hand.
    read_until(&mut busy, "100 Continue").await;
    let address = served.address;
    let shelf = served.bench.shelf.clone();
    let finishing = async {
        let mut rest = Vec::new();
        assert_eq!(idle.read_to_end(&mut rest).await.expect("closed in order"), 0);
        assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
        busy.write_all(body.as_bytes()).await.expect("open");
        read_until(&mut busy, " 201 Created").await;
    };
    tokio::join!(served.stop(), finishing);
    assert_eq!(shelf.with(|state| state.packs.len()), 1);
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_cut_off() {
    let settings = HttpSettings {
        write_stall: Duration::from_millis(100),
        ..HttpSettings::default()
    };
    let served = Served::with(settings).await;
    let big = |i: usize| json!({"action": "a", "resource_type": "b", "resource_id": i.to_string(), "metadata": {"k": "x".repeat(200_000)}});
    for _ in 0..2 {
        served.bench.post("/logs/bulk", &json!((0..60).map(big).collect::<Vec<_>>())).await;
    }
    let mut stream = served.connect().await;
    let ask = format!(
        "GET /api/v1/logs?page_size=1000 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n",
        token(Some("acme"), "admin")
    );
    stream.write_all(ask.as_bytes()).await.expect("open");
    // It reads nothing; stopping waits for its connection, which ends because it is cut off.
    stream.readable().await.expect("an answer begins");
    served.stop().await;
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all).await;
    assert!(all.len() < 20 << 20, "`{}` bytes: the answer was not sent whole", all.len());
}
