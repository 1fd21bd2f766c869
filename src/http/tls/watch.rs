//! Renewal: the files are read every few seconds, and a pair that has changed and is good is put in force.
//!
//! Contents are compared, not times: a clock that is turned back, a link that is swapped (Kubernetes) and a copy that keeps the old
//! time (`cp -p`) are all seen. Programs write the two files one after the other; between them the pair does not fit, so the old
//! one stays and the next look finds both.

use super::{
    Tls,
    identity::{Contents, Identity, TlsError},
};
use crate::{http::health::Health, model::time::now_ms};
use sha2::{Digest, Sha256};
use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

/// The name in health.
const DEPENDENCY: &str = "certificate";
/// Time between two looks.
const EVERY: Duration = Duration::from_secs(5);

/// What the last look found, so that the same thing is told once.
#[derive(PartialEq, Eq)]
pub struct Seen {
    pair: [u8; 32],
    trouble: Option<TlsError>,
}

impl Seen {
    /// A pair that is good.
    pub fn first(contents: &Contents) -> Self {
        Self {
            pair: digest(contents),
            trouble: None,
        }
    }
}

/// Names the contents without keeping the key.
fn digest(contents: &Contents) -> [u8; 32] {
    let hash = Sha256::new().chain_update((contents.cert.len() as u64).to_le_bytes());
    hash.chain_update(&contents.cert)
        .chain_update(&contents.key)
        .chain_update([u8::from(contents.exposed)])
        .finalize()
        .into()
}

impl Tls {
    /// Looks at the files again and again, and tells health what is in force. Never ends.
    pub async fn watch(self, health: Arc<Health>) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let (tls, health) = (self.clone(), health.clone());
            // A panic was logged where it happened; the next look is a new one.
            let _ = tokio::task::spawn_blocking(move || tls.look(&health, now_ms())).await;
        }
    }

    /// One look. Blocks.
    pub fn look(&self, health: &Health, now_ms: i64) {
        let shared = &*self.0;
        let mut seen = shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = match shared.files.read() {
            Ok(contents) if digest(&contents) == seen.pair => None,
            Ok(contents) => Some(Seen {
                pair: digest(&contents),
                trouble: self.renew(&contents, now_ms).err(),
            }),
            // Tried again when it can be read, even if it is what it was.
            Err(error) => Some(Seen {
                pair: [0; 32],
                trouble: Some(error),
            }),
        };
        if let Some(now) = now.filter(|now| *now != *seen) {
            match &now.trouble {
                Some(error) => tracing::warn!(path = %shared.files.of(error.key).display(), %error, "the new certificate is not used, the old one stays"),
                None => tracing::info!("a new certificate is in use"),
            }
            *seen = now;
        }
        let current = self.current();
        let words = current.describe(now_ms);
        match &seen.trouble {
            Some(error) => health.set_dependency(
                DEPENDENCY,
                false,
                format!("the new files are not used: {error}; the certificate in use: {words}"),
            ),
            None => health.set_dependency(DEPENDENCY, !current.is_over(now_ms), words),
        }
    }

    fn renew(&self, contents: &Contents, now_ms: i64) -> Result<(), TlsError> {
        let new = Identity::new(contents)?;
        if new.is_over(now_ms) && !self.current().is_over(now_ms) {
            return Err(TlsError {
                key: super::identity::CERT_FILE,
                reason: "holds a certificate whose time is over".to_owned(),
            });
        }
        new.warn(&self.0.files, now_ms);
        *self.0.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        Ok(())
    }
}
