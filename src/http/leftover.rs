//! What a handler leaves unread of a request's body.
//!
//! A request that is refused early leaves its body on the wire. hyper then closes the connection behind the answer without
//! announcing it: a client that is still sending sees a reset in place of the answer, one that uses the connection again sees
//! it fail. So the rest is read and thrown away first, inside a limit of bytes and time; beyond it the answer says
//! `Connection: close`. Of requests in a flood ([`Unwanted`]) next to nothing is read. HTTP/2 resets just the stream and needs none of this.

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::Request,
    http::{HeaderValue, Version, header},
    middleware::Next,
    response::Response,
};
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::{Instant, timeout_at};

/// So much is read for nothing: twice the largest body, so that one that is merely too large still gets its answer.
const MOST: u64 = 32 << 20;
/// Of what is unwanted: as much as has arrived with the head anyway.
const LITTLE: u64 = 64 << 10;
/// For so long.
const PATIENCE: Duration = Duration::from_secs(2);

/// In the extensions of an answer: the rest of the request is not worth reading, even if the client never sees the answer.
#[derive(Debug, Clone, Copy)]
pub struct Unwanted;

type Home = Arc<Mutex<Option<Body>>>;

/// A body that goes home when it is dropped before its end.
struct Lent {
    body: Option<Body>,
    home: Home,
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(context));
        if !matches!(frame, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let rest = self.body.take().filter(|body| !body.is_end_stream());
        *self.home.lock().unwrap_or_else(PoisonError::into_inner) = rest;
    }
}

/// Clears away what the inner service has not read.
pub async fn clear(request: Request, next: Next) -> Response {
    if request.version() > Version::HTTP_11 || request.body().is_end_stream() {
        return next.run(request).await;
    }
    // Who asks before sending has sent nothing yet, and must not be told to go on for nothing.
    let asks = request.headers().contains_key(header::EXPECT);
    let home = Home::default();
    let lend = |body| {
        let home = home.clone();
        Body::new(Lent { body: Some(body), home })
    };
    let mut response = next.run(request.map(lend)).await;
    let rest = home.lock().unwrap_or_else(PoisonError::into_inner).take();
    let most = if response.extensions().get::<Unwanted>().is_some() { LITTLE } else { MOST };
    if let Some(rest) = rest
        && (asks || !read_out(rest, most).await)
    {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Whether the end was reached.
async fn read_out(mut body: Body, most: u64) -> bool {
    let deadline = Instant::now() + PATIENCE;
    let mut left = most;
    while body.size_hint().lower() <= left {
        match timeout_at(deadline, body.frame()).await {
            Ok(None) => return true,
            Ok(Some(Ok(frame))) => match left.checked_sub(frame.data_ref().map_or(0, Bytes::len) as u64) {
                Some(less) => left = less,
                // It did not announce that it is so long.
                None => return false,
            },
            Ok(Some(Err(_))) | Err(_) => return false,
        }
    }
    false
}
