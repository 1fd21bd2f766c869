//! Public keys that change while the process runs: from a URL, or from a file that somebody replaces.
//!
//! One task per source fetches, so that there is never more than one fetch of it under way. It fetches at the start, every
//! minute, and when a token names a key that is not known. Such a token waits for the fetch. If the key is not there then, no
//! token makes us fetch again for a minute: who sends invented names gets no work done for it. After a failure
//! none does until it was tried again by the clock.
//!
//! | what goes wrong | then |
//! |---|---|
//! | no answer within 5 s, any status but 200 (a redirect too), more than 1 MiB, no usable key in it | the keys of before stay in force, [`Fetched::is_failing`], and it is tried again after 5 s, 10 s, … 60 s |
//! | it never worked since the start | tokens of the issuer are refused as [`AuthError::Unavailable`](crate::auth::AuthError) |
//! | more than 64 tokens wait | further ones are refused |
//!
//! A key that is gone from the source is gone here with the next fetch, and everything that was signed with it.

use super::{KeySet, jwks};
use reqwest::Url;
use std::{
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::AsyncReadExt,
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until, timeout},
};

/// How often what happens.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Keys of a URL are fetched so often without being asked for.
    pub every: Duration,
    /// A file is looked at so often.
    pub every_file: Duration,
    /// After a fetch that did not bring what a token asked for, no token makes us fetch for so long.
    pub ask_pause: Duration,
    /// After a failure: at first, doubled each time up to `every`.
    pub retry: Duration,
    /// For a whole answer.
    pub timeout: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(60),
            every_file: Duration::from_secs(5),
            ask_pause: Duration::from_secs(60),
            retry: Duration::from_secs(5),
            timeout: Duration::from_secs(5),
        }
    }
}

/// Tokens that wait for keys at once.
const WAITING: usize = 64;

/// Where keys are fetched from.
#[derive(Debug, Clone)]
pub enum Source {
    /// `http` or `https`.
    Url(Url),
    /// A file.
    File(PathBuf),
}

/// Keys that are fetched. Fetching ends when this is dropped.
pub struct Fetched {
    shared: Arc<Shared>,
    asks: mpsc::Sender<Ask>,
    /// A token waits for the fetch under way and for its own.
    patience: Duration,
}

#[derive(Default)]
struct Shared {
    keys: RwLock<Option<Arc<KeySet>>>,
    /// Counts the sets of keys.
    version: AtomicU64,
    failing: AtomicBool,
}

/// A token needs a key.
struct Ask {
    kid: Option<Box<str>>,
    /// The version that it found nothing in.
    seen: u64,
    /// Dropped when there is nothing more to wait for.
    _done: oneshot::Sender<()>,
}

impl Fetched {
    /// Begins to fetch. `first` are keys that were read already. Must be called inside a tokio runtime.
    pub fn start(issuer: Arc<str>, source: Source, first: Option<KeySet>, pace: Pace) -> Self {
        let shared = Arc::new(Shared::default());
        if let Some(keys) = first {
            shared.publish(keys);
        }
        let (asks, asked) = mpsc::channel(WAITING);
        let fetcher = Fetcher {
            issuer,
            client: client(&source, pace.timeout),
            pace,
            source,
            shared: shared.clone(),
            last: Vec::new(),
            failures: 0,
        };
        tokio::spawn(fetcher.run(asked));
        Self {
            shared,
            asks,
            patience: pace.timeout * 2 + Duration::from_secs(1),
        }
    }

    /// The keys in force; `None` while none were ever fetched.
    pub fn keys(&self) -> Option<Arc<KeySet>> {
        self.shared.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the last fetch failed.
    pub fn is_failing(&self) -> bool {
        self.shared.failing.load(Ordering::Relaxed)
    }

    /// Counts the sets of keys that were in force.
    pub fn version(&self) -> u64 {
        self.shared.version.load(Ordering::Acquire)
    }

    /// Waits until a key that was not found in this version was looked for, if that is allowed now. Cancel-safe.
    pub async fn look_for(&self, kid: Option<&str>, seen: u64) {
        let (done, waits) = oneshot::channel();
        let ask = Ask {
            kid: kid.map(Into::into),
            seen,
            _done: done,
        };
        if self.asks.try_send(ask).is_ok() {
            // Ends either way: nobody ever sends.
            let _ = timeout(self.patience, waits).await;
        }
    }
}

impl Shared {
    fn publish(&self, keys: KeySet) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(keys));
        self.version.fetch_add(1, Ordering::Release);
    }

    fn has(&self, kid: &str) -> bool {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.as_ref().is_some_and(|keys| keys.has_named(kid))
    }
}

struct Fetcher {
    issuer: Arc<str>,
    source: Source,
    client: Result<reqwest::Client, String>,
    shared: Arc<Shared>,
    /// The text of the keys in force.
    last: Vec<u8>,
    failures: u32,
    pace: Pace,
}

impl Fetcher {
    async fn run(mut self, mut asks: mpsc::Receiver<Ask>) {
        let mut due = Instant::now();
        let mut ask_from = Instant::now();
        loop {
            let ask = tokio::select! {
                ask = asks.recv() => match ask {
                    Some(ask) => Some(ask),
                    None => return,
                },
                () = sleep_until(due) => None,
            };
            if let Some(ask) = &ask
                && (self.is_answered(ask) || Instant::now() < ask_from)
            {
                continue;
            }
            self.fetch().await;
            due = Instant::now() + self.pause();
            if self.failures > 0 {
                // It is tried again by itself, and soon; what tokens ask for meanwhile would add nothing.
                ask_from = due;
            } else if ask.is_some_and(|ask| !self.is_answered(&ask)) {
                ask_from = Instant::now() + self.pace.ask_pause;
            }
        }
    }

    /// Whether the token that asks should look again.
    fn is_answered(&self, ask: &Ask) -> bool {
        match &ask.kid {
            Some(kid) => self.shared.has(kid),
            None => self.shared.version.load(Ordering::Acquire) != ask.seen,
        }
    }

    fn pause(&self) -> Duration {
        let every = match self.source {
            Source::Url(_) => self.pace.every,
            Source::File(_) => self.pace.every_file,
        };
        match self.failures {
            0 => every,
            n => every.min(self.pace.retry * 2u32.saturating_pow(n.min(8) - 1)),
        }
    }

    async fn fetch(&mut self) {
        let read = match &self.source {
            Source::Url(url) => download(&self.client, url).await,
            Source::File(path) => read(path).await,
        };
        let text = match read {
            Ok(text) if text == self.last => return self.worked(),
            Ok(text) => text,
            Err(why) => return self.failed(&why),
        };
        match jwks::parse(&text) {
            Ok(keys) => {
                tracing::info!(issuer = %self.issuer, keys = keys.keys().len(), "the issuer's keys are new");
                self.shared.publish(keys);
                self.last = text;
                self.worked();
            }
            Err(why) => self.failed(why.0),
        }
    }

    fn worked(&mut self) {
        self.failures = 0;
        self.shared.failing.store(false, Ordering::Relaxed);
    }

    fn failed(&mut self, why: &str) {
        if self.failures == 0 {
            tracing::warn!(issuer = %self.issuer, why, "the issuer's keys cannot be fetched; those of before stay in force");
        }
        self.failures = self.failures.saturating_add(1);
        self.shared.failing.store(true, Ordering::Relaxed);
    }
}

fn client(source: &Source, timeout: Duration) -> Result<reqwest::Client, String> {
    // Fails when somebody installed one before, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder()
        .no_gzip() // an engine's client brings it into the build, and a few bytes could become many
        .timeout(timeout)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("sluice/", env!("CARGO_PKG_VERSION")));
    if matches!(source, Source::Url(url) if is_loopback(url)) {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|e| format!("there can be no HTTP client: {e}"))
}

/// Whether the URL is of this machine.
pub fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

async fn download(client: &Result<reqwest::Client, String>, url: &Url) -> Result<Vec<u8>, String> {
    let client = client.as_ref().map_err(Clone::clone)?;
    let broken = |e: reqwest::Error| match e.is_timeout() {
        true => "there was no answer in time".to_owned(),
        false => format!("the connection failed: {}", e.without_url()),
    };
    let mut response = client.get(url.clone()).header("accept", "application/json").send().await.map_err(broken)?;
    if response.status() != reqwest::StatusCode::OK {
        return Err(format!("the answer was {}", response.status().as_u16()));
    }
    let mut text = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        if text.len() + chunk.len() > jwks::MAX_BYTES {
            return Err("the answer is larger than 1 MiB".to_owned());
        }
        text.extend_from_slice(&chunk);
    }
    Ok(text)
}

async fn read(path: &PathBuf) -> Result<Vec<u8>, String> {
    let unreadable = |e: std::io::Error| format!("the file cannot be read: {e}");
    let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
    let mut text = Vec::new();
    file.take(jwks::MAX_BYTES as u64 + 1).read_to_end(&mut text).await.map_err(unreadable)?;
    Ok(text)
}
