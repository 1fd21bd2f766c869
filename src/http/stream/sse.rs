//! The live feed as Server-Sent Events. `id:` is the sequence, so that a browser resumes by itself; gaps and voids carry
//! their last number. A comment every 20 s keeps middle boxes from closing a quiet feed.

use super::{Frame, Granted};
use crate::http::{server::Drain, state::App};
use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, header},
    response::Response,
};
use bytes::Bytes;
use futures_util::{FutureExt, stream};
use std::{convert::Infallible, sync::Arc};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tokio_util::task::task_tracker::TaskTrackerToken;

/// Events are gathered up to so many bytes before they are handed to the connection.
const PIECE: usize = 64 << 10;

struct Events {
    granted: Granted,
    drain: Drain,
    tick: Interval,
    opened: bool,
    over: bool,
    _counted: TaskTrackerToken,
}

/// The answer whose body is the feed.
pub fn answer(app: &Arc<App>, granted: Granted) -> Response {
    let every = app.services.settings.feed_ping;
    let mut tick = interval_at(Instant::now() + every, every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let events = Events {
        granted,
        drain: app.services.drain.clone(),
        tick,
        opened: false,
        over: false,
        _counted: app.services.drain.session(),
    };
    let body = stream::unfold(events, |mut events| async move {
        let piece = events.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(piece)), events))
    });
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

impl Events {
    async fn next(&mut self) -> Option<Vec<u8>> {
        if self.over {
            return None;
        }
        if !std::mem::replace(&mut self.opened, true) {
            // Something at once, so that the reader knows that it is connected.
            return Some(b": open\n\n".to_vec());
        }
        let drain = self.drain.clone();
        tokio::select! {
            biased;
            () = drain.stopping() => None,
            _why = self.granted.watch.over() => {
                self.over = true;
                Some(b"event: closed\ndata: {\"code\":4001}\n\n".to_vec())
            }
            frame = self.granted.feed.next() => {
                let mut out = Vec::new();
                self.write(&mut out, frame);
                while !self.over && out.len() < PIECE {
                    let Some(frame) = self.granted.feed.next().now_or_never() else { break };
                    self.write(&mut out, frame);
                }
                (!out.is_empty()).then_some(out)
            }
            _ = self.tick.tick() => Some(b": ping\n\n".to_vec()),
        }
    }

    fn write(&mut self, out: &mut Vec<u8>, frame: Frame) {
        match frame {
            Frame::Text(sequence, json) => {
                out.extend_from_slice(format!("id: {sequence}\ndata: ").as_bytes());
                out.extend_from_slice(&json);
                out.extend_from_slice(b"\n\n");
            }
            Frame::End(crate::model::feed::FeedEnd::TooSlow) => {
                self.over = true;
                out.extend_from_slice(b"event: closed\ndata: {\"code\":4008}\n\n");
            }
            // The reader comes back by itself and resumes after the last id.
            Frame::End(crate::model::feed::FeedEnd::Shutdown | crate::model::feed::FeedEnd::StoreFailed(_)) => self.over = true,
        }
    }
}
