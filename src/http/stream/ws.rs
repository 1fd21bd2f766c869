//! One WebSocket: frames out, pings both ways, and an end with a reason.
//!
//! | close code | why |
//! |---|---|
//! | 1001 | the process is stopping |
//! | 1008 | `after` is beyond the head (only where the credential came as a frame; else it is 422 before the upgrade) |
//! | 1011, 1013 | the store cannot be read; too many feeds |
//! | 4001 | no credential, a bad one, or its time is over: it expired or was revoked |
//! | 4008 | the reader is too slow and asked for `on_slow=close` |

use super::{Feed, Frame, Granted, Wanted, authorised, subscribe, watch::Watch};
use crate::{
    auth::Credential,
    http::{
        error::{Code, Problem},
        routes::Endpoint,
        server::Drain,
        settings::HttpSettings,
        state::App,
    },
    model::feed::FeedEnd,
};
use axum::{
    extract::{
        WebSocketUpgrade,
        ws::{CloseFrame, Message, Utf8Bytes, WebSocket},
    },
    http::request::Parts,
    response::Response,
};
use futures_util::{FutureExt, SinkExt, StreamExt};
use serde::Deserialize;
use std::{future::Future, sync::Arc, time::Duration};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, Interval, MissedTickBehavior, interval_at, timeout},
};

const GOING_AWAY: u16 = 1001;
const POLICY: u16 = 1008;
const FAILED: u16 = 1011;
const TRY_LATER: u16 = 1013;
const CREDENTIAL: u16 = 4001;
const TOO_SLOW: u16 = 4008;

/// A client's frame is a token or a ping.
const LARGEST_FRAME: usize = 64 << 10;
/// Frames written at most before the socket is flushed and looked at again.
const BATCH: usize = 256;
/// How long the closing handshake may take.
const CLOSING: Duration = Duration::from_secs(2);

/// A socket that has not named a credential yet.
pub struct Stranger {
    pub wanted: Wanted,
    pub parts: Parts,
    pub request_id: Arc<str>,
    pub endpoint: &'static Endpoint,
    pub place: OwnedSemaphorePermit,
}

/// Why a socket is closed by us: code and reason.
type End = (u16, &'static str);

/// How a session ends.
enum Over {
    /// We say why.
    Close(End),
    /// The peer is gone or does not answer: there is nobody to say goodbye to.
    Gone,
}

/// Accepts the upgrade for a granted feed.
pub fn answer(app: &Arc<App>, upgrade: WebSocketUpgrade, granted: Granted) -> Response {
    accept(app, upgrade, |app, socket| async move { Talk::new(&app, socket).follow(granted).await })
}

/// Accepts the upgrade for a socket that is still to name its credential.
pub fn answer_stranger(app: &Arc<App>, upgrade: WebSocketUpgrade, stranger: Stranger) -> Response {
    accept(app, upgrade, |app, socket| async move {
        let mut talk = Talk::new(&app, socket);
        match talk.introduce(&app, stranger).await {
            Ok(granted) => talk.follow(granted).await,
            Err(over) => talk.end(over).await,
        }
    })
}

fn accept<F, S>(app: &Arc<App>, upgrade: WebSocketUpgrade, session: S) -> Response
where
    F: Future<Output = ()> + Send,
    S: FnOnce(Arc<App>, WebSocket) -> F + Send + 'static,
{
    let app = app.clone();
    // Counted from here, so that a shutdown between this answer and the upgrade waits for it.
    let counted = app.services.drain.session();
    upgrade
        .max_message_size(LARGEST_FRAME)
        .max_frame_size(LARGEST_FRAME)
        .on_upgrade(move |socket| async move {
            session(app, socket).await;
            drop(counted);
        })
}

struct Talk {
    app: Arc<App>,
    socket: WebSocket,
    watch: Watch,
    ping: Interval,
    last_pong: Instant,
}

impl Talk {
    fn new(app: &Arc<App>, socket: WebSocket) -> Self {
        let every = app.services.settings.feed_ping;
        let mut ping = interval_at(Instant::now() + every, every);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            app: app.clone(),
            socket,
            watch: Watch::nobody(),
            ping,
            last_pong: Instant::now(),
        }
    }

    fn settings(&self) -> &HttpSettings {
        &self.app.services.settings
    }

    /// Waits for `{"token": "…"}` and opens the feed.
    async fn introduce(&mut self, app: &Arc<App>, stranger: Stranger) -> Result<Granted, Over> {
        const NONE: End = (CREDENTIAL, "the first text frame must be {\"token\": \"…\"}, within 5 s");
        let deadline = Instant::now() + self.settings().feed_token_wait;
        let drain = app.services.drain.clone();
        let text = loop {
            let message = tokio::select! {
                biased;
                () = drain.stopping() => return Err(Over::Close((GOING_AWAY, "the server is stopping"))),
                message = tokio::time::timeout_at(deadline, self.socket.recv()) => message,
            };
            match message {
                Err(_late) => return Err(Over::Close(NONE)),
                Ok(Some(Ok(Message::Text(text)))) => break text,
                Ok(Some(Ok(Message::Ping(_) | Message::Pong(_)))) => {}
                Ok(Some(Ok(Message::Binary(_)))) => return Err(Over::Close(NONE)),
                Ok(Some(Ok(Message::Close(_)) | Err(_)) | None) => return Err(Over::Gone),
            }
        };
        #[derive(Deserialize)]
        struct Introduction {
            token: String,
        }
        let Stranger {
            wanted,
            parts,
            request_id,
            endpoint,
            place,
        } = stranger;
        let Ok(Introduction { token }) = serde_json::from_str(&text) else {
            return Err(Over::Close(NONE));
        };
        let refused = |problem: Problem| Over::Close(closing(&problem));
        let (caller, action) = authorised(app, Credential::Bearer(&token), &parts, &request_id, endpoint)
            .await
            .map_err(refused)?;
        let granted = subscribe(app, &caller, action, wanted, &parts, &request_id).await.map_err(refused)?;
        drop(place);
        Ok(granted)
    }

    /// Follows the feed to its end.
    async fn follow(mut self, granted: Granted) {
        let Granted { mut feed, watch } = granted;
        self.watch = watch;
        let over = loop {
            if let Err(over) = self.turn(&mut feed).await {
                break over;
            }
        };
        drop(feed);
        self.end(over).await;
    }

    async fn turn(&mut self, feed: &mut Feed) -> Result<(), Over> {
        let drain = self.app.services.drain.clone();
        tokio::select! {
            biased;
            () = drain.stopping() => Err(Over::Close((GOING_AWAY, "the server is stopping"))),
            why = self.watch.over() => Err(Over::Close((CREDENTIAL, why))),
            // Before the ping, so that a pong that has arrived is counted.
            message = self.socket.recv() => self.heard(message).await,
            _ = self.ping.tick() => {
                if self.last_pong.elapsed() >= self.settings().feed_pong_timeout {
                    return Err(Over::Gone);
                }
                self.feed(Message::Ping(bytes::Bytes::new())).await?;
                self.flush().await
            }
            frame = feed.next() => {
                self.tell(frame).await?;
                for _ in 1..BATCH {
                    let Some(frame) = feed.next().now_or_never() else { break };
                    self.tell(frame).await?;
                }
                self.flush().await
            }
        }
    }

    async fn heard(&mut self, message: Option<Result<Message, axum::Error>>) -> Result<(), Over> {
        match message {
            Some(Ok(Message::Text(text))) if text.as_str() == "ping" => {
                self.feed(Message::Text(Utf8Bytes::from_static("pong"))).await?;
                self.flush().await
            }
            Some(Ok(Message::Pong(_))) => {
                self.last_pong = Instant::now();
                Ok(())
            }
            Some(Ok(Message::Text(_) | Message::Binary(_) | Message::Ping(_))) => Ok(()),
            Some(Ok(Message::Close(_)) | Err(_)) | None => Err(Over::Gone),
        }
    }

    async fn tell(&mut self, frame: Frame) -> Result<(), Over> {
        match frame {
            Frame::Text(_, json) => {
                let text = Utf8Bytes::try_from(json).map_err(|_| Over::Close((FAILED, "an entry is no text")))?;
                self.feed(Message::Text(text)).await
            }
            Frame::End(end) => {
                self.flush().await?;
                Err(Over::Close(match end {
                    FeedEnd::TooSlow => (TOO_SLOW, "the reader is too slow"),
                    FeedEnd::Shutdown => (GOING_AWAY, "the server is stopping"),
                    FeedEnd::StoreFailed(_) => (FAILED, "the store cannot be read"),
                }))
            }
        }
    }

    async fn feed(&mut self, message: Message) -> Result<(), Over> {
        let (deadline, drain) = self.limits();
        bounded(self.socket.feed(message), deadline, &mut self.watch, drain).await
    }

    async fn flush(&mut self) -> Result<(), Over> {
        let (deadline, drain) = self.limits();
        bounded(self.socket.flush(), deadline, &mut self.watch, drain).await
    }

    fn limits(&self) -> (Instant, Drain) {
        // A reader that takes nothing answers no ping either.
        let deadline = self.last_pong + self.settings().feed_pong_timeout;
        (deadline, self.app.services.drain.clone())
    }

    /// Says why, and waits a little for the peer to have heard it.
    async fn end(mut self, over: Over) {
        let Over::Close((code, reason)) = over else { return };
        let frame = CloseFrame {
            code,
            reason: Utf8Bytes::from_static(reason),
        };
        let goodbye = async {
            self.socket.send(Message::Close(Some(frame))).await.ok()?;
            while let Some(Ok(message)) = self.socket.next().await {
                if matches!(message, Message::Close(_)) {
                    break;
                }
            }
            Some(())
        };
        // A peer that does not answer is left.
        let _ = timeout(CLOSING, goodbye).await;
    }
}

/// A write that ends when the session must.
async fn bounded(write: impl Future<Output = Result<(), axum::Error>>, deadline: Instant, watch: &mut Watch, drain: Drain) -> Result<(), Over> {
    tokio::select! {
        biased;
        written = write => written.map_err(|_| Over::Gone),
        () = drain.stopping() => Err(Over::Close((GOING_AWAY, "the server is stopping"))),
        why = watch.over() => Err(Over::Close((CREDENTIAL, why))),
        () = tokio::time::sleep_until(deadline) => Err(Over::Gone),
    }
}

/// The close code for what would have been an error answer.
fn closing(problem: &Problem) -> End {
    match problem.code() {
        Code::InvalidParameter => (POLICY, "`after` is beyond the head"),
        Code::Forbidden | Code::UnknownTenant => (CREDENTIAL, "the credential does not allow this"),
        Code::Unavailable => (TRY_LATER, "not possible at the moment"),
        _ => (CREDENTIAL, "the credential is not valid"),
    }
}
