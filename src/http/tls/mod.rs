//! TLS of the main listener: 1.2 and 1.3 by `rustls`, HTTP/2 and HTTP/1.1 by ALPN, with certificates that can be renewed while
//! the process runs.
//!
//! Guarantees: a handshake is bounded in time and runs in the task of its connection; a connection that was greeted with one
//! certificate keeps it to its end; a new pair of files serves the next handshake after it was seen (at most 5 s), a pair that
//! cannot be used changes nothing and shows in health. Resumption of sessions ends with the certificate that they began with.
//! Does not: ask clients for certificates, choose among certificates by name, staple OCSP.

mod identity;
mod plaintext;
mod validity;
mod watch;

pub use identity::{Files, TlsError};

use super::guarded::GuardedIo;
use crate::model::time::now_ms;
use identity::Identity;
use std::{
    fmt, io,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use watch::Seen;

/// How long a handshake may take.
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// The first byte of every TLS connection: a record of the handshake.
const HANDSHAKE_RECORD: u8 = 0x16;

/// The certificate in force and the files that it is renewed from. Cheap to clone.
#[derive(Clone)]
pub struct Tls(Arc<Shared>);

struct Shared {
    files: Files,
    current: RwLock<Arc<Identity>>,
    seen: Mutex<Seen>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tls").field(&self.0.files).finish()
    }
}

impl Tls {
    /// Reads the files; what is wrong with them is told with the key of the setting. Blocks.
    pub fn open(files: Files) -> Result<Self, TlsError> {
        let contents = files.read()?;
        let identity = Identity::new(&contents)?;
        identity.warn(&files, now_ms());
        Ok(Self(Arc::new(Shared {
            files,
            seen: Mutex::new(Seen::first(&contents)),
            current: RwLock::new(Arc::new(identity)),
        })))
    }

    fn current(&self) -> Arc<Identity> {
        self.0.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The handshake of a connection. A client that speaks HTTP without TLS is told so.
    pub async fn greet(&self, socket: GuardedIo, patience: Duration) -> io::Result<TlsStream<GuardedIo>> {
        let handshake = async {
            match socket.first_byte().await? {
                Some(HANDSHAKE_RECORD) => TlsAcceptor::from(self.current().config()).accept(socket).await,
                None => Err(io::ErrorKind::UnexpectedEof.into()),
                Some(_) => {
                    plaintext::answer(socket).await?;
                    Err(io::Error::other("it began without TLS"))
                }
            }
        };
        timeout(patience, handshake).await.unwrap_or_else(|_late| Err(io::ErrorKind::TimedOut.into()))
    }
}
