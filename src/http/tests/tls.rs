//! TLS over real sockets: versions, renewal of certificates, broken pairs, clients that do not finish the handshake.

use super::{server::read_until, *};
use crate::http::{
    serve,
    tls::{Files, Tls},
};
use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::{CertificateDer, ServerName};
use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

const ASK: &[u8] = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// An authority, and a folder with a pair of files that it has signed.
struct Authority {
    folder: tempfile::TempDir,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    own: CertificateDer<'static>,
}

/// What may be wrong with a new pair.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Pair {
    Good,
    AnothersKey,
    NoPem,
    Over,
}

impl Authority {
    fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("a key");
        let own = params.self_signed(&key).expect("signed").der().clone();
        let new = Self {
            folder: tempfile::tempdir().expect("a folder"),
            issuer: rcgen::Issuer::new(params, key),
            own,
        };
        new.write(Pair::Good);
        new
    }

    fn files(&self) -> Files {
        Files {
            cert_file: self.folder.path().join("cert.pem"),
            key_file: self.folder.path().join("key.pem"),
        }
    }

    /// A new pair into the files; its certificate.
    fn write(&self, pair: Pair) -> CertificateDer<'static> {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        if pair == Pair::Over {
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        }
        let cert = params.signed_by(&key, &self.issuer).expect("signed");
        let shown = match pair {
            Pair::AnothersKey => rcgen::KeyPair::generate().expect("a key").serialize_pem(),
            _ => key.serialize_pem(),
        };
        let Files { cert_file, key_file } = self.files();
        fs::write(cert_file, if pair == Pair::NoPem { "no PEM".to_owned() } else { cert.pem() }).expect("written");
        fs::write(&key_file, shown).expect("written");
        fs::set_permissions(key_file, fs::Permissions::from_mode(0o600)).expect("changed");
        cert.der().clone()
    }

    fn client(&self, versions: &[&'static rustls::SupportedProtocolVersion]) -> TlsConnector {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.own.clone()).expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("known")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config).into()
    }

    fn reqwest(&self) -> reqwest::ClientBuilder {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let own = reqwest::Certificate::from_der(&self.own).expect("a certificate");
        // No connection is used twice: each request is greeted anew.
        reqwest::Client::builder().tls_certs_only([own]).pool_max_idle_per_host(0)
    }
}

struct Secured {
    bench: Bench,
    authority: Authority,
    tls: Tls,
    address: SocketAddr,
    shutdown: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

impl Secured {
    async fn new() -> Self {
        Self::with(HttpSettings::default()).await
    }

    async fn with(settings: HttpSettings) -> Self {
        let authority = Authority::new();
        let tls = Tls::open(authority.files()).expect("a good pair");
        let settings = HttpSettings {
            tls: Some(tls.clone()),
            hsts: Duration::from_secs(86_400),
            ..settings
        };
        let bench = Bench::with(settings.clone()).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (shutdown, asked) = oneshot::channel();
        let server = serve(listener, bench.router.clone(), settings, bench.services.drain.clone(), async {
            let _ = asked.await;
        });
        Self {
            bench,
            authority,
            tls,
            address,
            shutdown,
            server: tokio::spawn(server),
        }
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address.port())
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        self.connect_with(&[&rustls::version::TLS13]).await
    }

    async fn connect_with(&self, versions: &[&'static rustls::SupportedProtocolVersion]) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.address).await.expect("it listens");
        let name = ServerName::try_from("localhost").expect("a name");
        self.authority.client(versions).connect(name, stream).await.expect("a handshake")
    }

    fn certificate_health(&self) -> (String, String) {
        let answer = self.bench.services.health.answer(super::super::health::Probe::Report);
        let body = answer.into_body().collect().now_or_never().expect("it is there").expect("whole").to_bytes();
        let json: Value = serde_json::from_slice(&body).expect("JSON");
        let certificate = &json["dependencies"]["certificate"];
        let text = |name: &str| certificate[name].as_str().unwrap_or_default().to_owned();
        (text("status"), text("detail"))
    }

    async fn stop(self) {
        self.shutdown.send(()).expect("it is running");
        self.server.await.expect("no panic");
    }
}

fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().expect("shown")[0].clone()
}

/// Asks over this connection and reads the answer.
async fn asked(stream: &mut TlsStream<TcpStream>) -> String {
    stream.write_all(ASK).await.expect("open");
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("_tenants\":0}") {
        assert_ne!(stream.read_buf(&mut seen).await.expect("open"), 0, "{}", String::from_utf8_lossy(&seen));
    }
    String::from_utf8(seen).expect("text")
}

#[tokio::test]
async fn both_versions_of_http_and_of_tls_answer() {
    let secured = Secured::new().await;
    for (client, version) in [
        (secured.authority.reqwest().http1_only(), "HTTP/1.1"),
        (secured.authority.reqwest(), "HTTP/2.0"), // by ALPN
    ] {
        let client = client.build().expect("a client");
        let request = client.post(secured.url("/api/v1/logs")).bearer_auth(token(Some("acme"), "admin"));
        let sent = request.body(entry(1).to_string()).send().await.expect("an answer");
        assert_eq!((sent.status().as_u16(), format!("{:?}", sent.version())), (201, version.to_owned()));
        assert_eq!(sent.headers()["strict-transport-security"], "max-age=86400");
    }
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut stream = secured.connect_with(&[version]).await;
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
        assert!(asked(&mut stream).await.starts_with("HTTP/1.1 200"));
    }
    secured.stop().await;
}

#[tokio::test]
async fn the_feed_follows_over_tls() {
    let secured = Secured::new().await;
    let mut request = secured
        .url("/api/v1/logs/stream")
        .replace("https", "wss")
        .into_client_request()
        .expect("a request");
    let viewer = format!("Bearer {}", token(Some("acme"), "viewer"));
    request.headers_mut().insert("authorization", viewer.parse().expect("visible"));
    let stream = secured.connect().await;
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.expect("open");
    secured.bench.post("/logs", &entry(1)).await;
    let Some(Ok(Message::Text(text))) = socket.next().await else {
        panic!("no entry")
    };
    assert!(text.contains("\"sequence\":1"), "{text}");
    socket.send(Message::text("ping")).await.expect("open");
    let Some(Ok(Message::Text(text))) = socket.next().await else {
        panic!("no pong")
    };
    assert_eq!(text.as_str(), "pong");
    // A shutdown ends it as in the clear.
    let ending = async {
        let Some(Ok(Message::Close(Some(frame)))) = socket.next().await else {
            panic!("not closed")
        };
        assert_eq!(u16::from(frame.code), 1001);
        while socket.next().await.is_some() {}
    };
    tokio::join!(secured.stop(), ending);
}

#[tokio::test]
async fn a_new_certificate_greets_new_connections_and_no_request_fails() {
    let secured = Secured::new().await;
    let health = secured.bench.services.health.clone();
    let mut old = secured.connect().await;
    let first = shown(&old);
    let client = secured.authority.reqwest().build().expect("a client");
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let url = secured.url("/api/v1/logs");
    let writers: Vec<_> = (0..3)
        .map(|_| {
            let (client, url, stopped) = (client.clone(), url.clone(), stopped.clone());
            tokio::spawn(async move {
                let mut done = 0;
                while !*stopped.borrow() {
                    let sent = client.post(&url).bearer_auth(token(Some("acme"), "admin")).body(entry(1).to_string()).send();
                    assert_eq!(sent.await.expect("no request fails").status(), 201);
                    done += 1;
                }
                done
            })
        })
        .collect();
    for _ in 0..10 {
        let second = secured.authority.write(Pair::Good);
        let (tls, health) = (secured.tls.clone(), health.clone());
        tokio::task::spawn_blocking(move || tls.look(&health, now_ms())).await.expect("no panic");
        let mut new = secured.connect().await;
        assert_eq!(shown(&new), second);
        assert!(asked(&mut new).await.starts_with("HTTP/1.1 200"));
    }
    stop.send(true).expect("they run");
    for writer in writers {
        assert!(writer.await.expect("no request failed") > 0);
    }
    // The connection of the beginning lives on.
    assert!(asked(&mut old).await.starts_with("HTTP/1.1 200"));
    assert_eq!(shown(&old), first);
    drop(old);
    secured.stop().await;
}

#[tokio::test]
async fn a_pair_that_cannot_be_used_changes_nothing_and_health_says_so() {
    let secured = Secured::new().await;
    let health = &secured.bench.services.health;
    let look = || secured.tls.look(health, now_ms());
    let first = shown(&secured.connect().await);
    look();
    let (status, detail) = secured.certificate_health();
    assert!(
        status == "ok" && detail.starts_with("good until ") && detail.contains(" days from now"),
        "{status} {detail}"
    );
    for (pair, why) in [
        (Pair::AnothersKey, "`http.tls.key_file` is not the key of the certificate"),
        (Pair::NoPem, "`http.tls.cert_file` holds no certificate"),
        (Pair::Over, "`http.tls.cert_file` holds a certificate whose time is over"),
    ] {
        secured.authority.write(pair);
        look();
        look();
        let (status, detail) = secured.certificate_health();
        assert!(
            status == "failing" && detail.contains(why) && detail.contains("good until"),
            "{pair:?}: {status} {detail}"
        );
        assert_eq!(shown(&secured.connect().await), first, "{pair:?}");
    }
    let Files { cert_file, key_file } = secured.authority.files();
    fs::write(&key_file, "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n").expect("written");
    look();
    assert!(secured.certificate_health().1.contains("whose time is over") || secured.certificate_health().1.contains("not encrypted"));
    fs::remove_file(&key_file).expect("there");
    look();
    let (status, detail) = secured.certificate_health();
    assert!(status == "failing" && detail.contains("`http.tls.key_file` cannot be read"), "{detail}");
    assert!(!detail.contains(secured.authority.folder.path().to_str().expect("text")), "no paths: {detail}");
    fs::remove_file(&cert_file).expect("there");
    fs::create_dir(&cert_file).expect("made");
    look();
    assert!(secured.certificate_health().1.contains("it is not a file"));
    fs::remove_dir(&cert_file).expect("there");
    // A good one again is taken, and one whose key others may read is, with a word about it.
    let second = secured.authority.write(Pair::Good);
    look();
    assert_eq!(secured.certificate_health().0, "ok");
    assert_eq!(shown(&secured.connect().await), second);
    fs::set_permissions(&key_file, fs::Permissions::from_mode(0o644)).expect("changed");
    look();
    let (status, detail) = secured.certificate_health();
    assert!(status == "ok" && detail.contains("others than its owner"), "{detail}");
    // What was good until now is over one day.
    secured.tls.look(health, i64::MAX / 2);
    let (status, detail) = secured.certificate_health();
    assert!(status == "failing" && detail.starts_with("ended "), "{status} {detail}");
    secured.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_files_are_looked_at_every_few_seconds() {
    let authority = Authority::new();
    let tls = Tls::open(authority.files()).expect("a good pair");
    let health = Arc::new(Health::new());
    let status = || async {
        let body = health
            .answer(super::super::health::Probe::Report)
            .into_body()
            .collect()
            .await
            .expect("whole")
            .to_bytes();
        serde_json::from_slice::<Value>(&body).expect("JSON")["dependencies"]["certificate"]["status"].clone()
    };
    let watching = tokio::spawn(tls.clone().watch(health.clone()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(status().await, "ok");
    authority.write(Pair::AnothersKey);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(status().await, "ok", "not yet");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(status().await, "failing");
    authority.write(Pair::Good);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(status().await, "ok");
    watching.abort();
}

#[test]
fn what_cannot_be_used_at_the_start_is_told_with_its_key() {
    let authority = Authority::new();
    let Files { cert_file, key_file } = authority.files();
    let (cert, key) = (fs::read(&cert_file).expect("there"), fs::read(&key_file).expect("there"));
    let open = |cert: &[u8], key: &[u8]| {
        fs::write(&cert_file, cert).expect("written");
        fs::write(&key_file, key).expect("written");
        Tls::open(authority.files()).map(drop)
    };
    assert_eq!(open(&cert, &key), Ok(()));
    // Both in one file, as some tools write them.
    let both = [&cert[..], &key].concat();
    assert_eq!(open(&both, &both), Ok(()));
    let bent = String::from_utf8(cert.clone())
        .expect("text")
        .replacen("MII", "AAA", 1)
        .replacen("MIIB", "AAAA", 1);
    for (cert, key, want) in [
        (&b""[..], &key[..], "http.tls.cert_file"),
        (&key, &key, "http.tls.cert_file"),
        (b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n", &key, "http.tls.cert_file"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &key, "http.tls.cert_file"),
        (bent.as_bytes(), &key, "http.tls.cert_file"),
        (&cert, b"", "http.tls.key_file"),
        (&cert, &cert, "http.tls.key_file"),
        (&cert, b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "http.tls.key_file"),
        (&vec![b' '; (1 << 20) + 1], &key, "http.tls.cert_file"),
    ] {
        let error = open(cert, key).expect_err("refused");
        assert_eq!(error.key, want, "{error}");
    }
}

#[tokio::test]
async fn a_client_that_does_not_speak_tls_is_told_so() {
    let secured = Secured::new().await;
    for ask in [
        &b"GET /api/v1/logs HTTP/1.1\r\nhost: x\r\nauthorization: Bearer the-secret\r\n\r\n"[..],
        b"POST /api/v1/logs HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello",
    ] {
        let mut stream = TcpStream::connect(secured.address).await.expect("it listens");
        stream.write_all(ask).await.expect("open");
        let answer = read_until(&mut stream, "}").await;
        assert!(
            answer.starts_with("HTTP/1.1 400 Bad Request") && answer.contains("\"tls_required\""),
            "{answer}"
        );
        assert!(!answer.contains("secret"));
        let mut rest = Vec::new();
        assert_eq!(stream.read_to_end(&mut rest).await.expect("closed in order"), 0);
    }
    secured.stop().await;
}

#[tokio::test]
async fn a_handshake_that_does_not_end_holds_nobody_and_is_cut_off() {
    let settings = HttpSettings {
        header_timeout: Duration::from_millis(200),
        ..HttpSettings::default()
    };
    let secured = Secured::with(settings).await;
    let mut idle = Vec::new();
    for part in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/1.1\r\nhost:"] {
        let mut stream = TcpStream::connect(secured.address).await.expect("it listens");
        stream.write_all(part).await.expect("open");
        idle.push(stream);
    }
    // The others are answered meanwhile.
    let mut stream = secured.connect().await;
    assert!(asked(&mut stream).await.starts_with("HTTP/1.1 200"));
    for mut stream in idle {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await; // closed or reset, but in time
        assert!(!String::from_utf8_lossy(&rest).contains(" 200 "));
    }
    // After the handshake the first request is waited for as long as in the clear.
    let mut silent = secured.connect().await;
    let _ = silent.read_to_end(&mut Vec::new()).await;
}

#[tokio::test]
async fn a_shutdown_finishes_requests_and_does_not_wait_for_handshakes() {
    let secured = Secured::new().await;
    let _greeting = TcpStream::connect(secured.address).await.expect("it listens");
    let mut idle = secured.connect().await;
    asked(&mut idle).await;
    let body = entry(1).to_string();
    let mut busy = secured.connect().await;
    let head = format!(
        "POST /api/v1/logs HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\nexpect: 100-continue\r\n\r\n",
        token(Some("acme"), "admin"),
        body.len()
    );
    busy.write_all(head.as_bytes()).await.expect("open");
    let mut seen = [0; 25];
    busy.read_exact(&mut seen).await.expect("open");
    assert_eq!(&seen, b"HTTP/1.1 100 Continue\r\n\r\n");
    let finishing = async {
        let mut rest = Vec::new();
        assert_eq!(idle.read_to_end(&mut rest).await.expect("closed in order, with close_notify"), 0);
        busy.write_all(body.as_bytes()).await.expect("open");
        let mut answer = Vec::new();
        busy.read_to_end(&mut answer).await.expect("closed in order");
        assert!(answer.starts_with(b"HTTP/1.1 201 Created"));
    };
    let ended = async { tokio::join!(secured.stop(), finishing) };
    // Less than a handshake may take.
    tokio::time::timeout(Duration::from_secs(8), ended).await.expect("nobody waits for a handshake");
}
