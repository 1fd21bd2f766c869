//! A certificate chain and its private key: read from files, checked against each other, ready for handshakes.

use super::validity;
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};
use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The setting that names the certificate chain.
pub const CERT_FILE: &str = "http.tls.cert_file";
/// The setting that names the private key.
pub const KEY_FILE: &str = "http.tls.key_file";
/// Larger files are no chain and no key.
const LARGEST: u64 = 1 << 20;

/// Why a pair of files cannot be used. Names the setting, never what is in the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` {reason}")]
pub struct TlsError {
    /// Which setting.
    pub key: &'static str,
    /// What is wrong with its file, without its path.
    pub reason: String,
}

impl TlsError {
    fn new(key: &'static str, reason: impl Into<String>) -> Self {
        Self { key, reason: reason.into() }
    }
}

/// Where the pair is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// `http.tls.cert_file`: the chain, the server's own certificate first, PEM.
    pub cert_file: PathBuf,
    /// `http.tls.key_file`: the private key, PEM, not encrypted.
    pub key_file: PathBuf,
}

/// What was in the files.
pub struct Contents {
    pub cert: Vec<u8>,
    pub key: Vec<u8>,
    /// Others than its owner may read the key.
    pub exposed: bool,
}

impl Files {
    /// Reads both. Blocks.
    pub fn read(&self) -> Result<Contents, TlsError> {
        let cert = contents(&self.cert_file).map_err(|e| unreadable(CERT_FILE, &e))?;
        let key = contents(&self.key_file).map_err(|e| unreadable(KEY_FILE, &e))?;
        let mode = fs::metadata(&self.key_file).map_err(|e| unreadable(KEY_FILE, &e))?.permissions().mode();
        Ok(Contents {
            cert,
            key,
            exposed: mode & 0o077 != 0,
        })
    }

    /// The file of a setting.
    pub fn of(&self, key: &str) -> &Path {
        if key == CERT_FILE { &self.cert_file } else { &self.key_file }
    }
}

fn contents(path: &Path) -> io::Result<Vec<u8>> {
    // Reading a pipe would wait for its writer.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    Ok(bytes)
}

fn unreadable(key: &'static str, error: &io::Error) -> TlsError {
    TlsError::new(key, format!("cannot be read: {error}"))
}

/// A pair that fits.
pub struct Identity {
    config: Arc<ServerConfig>,
    /// The last millisecond at which clients take the certificate; `None`: it cannot be told.
    good_until: Option<i64>,
    exposed: bool,
}

impl Identity {
    /// Checks what was read: both are there, of a known kind, and belong together.
    pub fn new(contents: &Contents) -> Result<Self, TlsError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&contents.cert)
            .collect::<Result<_, _>>()
            .map_err(|_| TlsError::new(CERT_FILE, "is not PEM"))?;
        let Some(own) = chain.first() else {
            return Err(TlsError::new(
                CERT_FILE,
                "holds no certificate; PEM is needed, the server's own certificate first",
            ));
        };
        let good_until = validity::end(own);
        let key = PrivateKeyDer::from_pem_slice(&contents.key).map_err(|_| {
            let needed = "holds no private key that can be used; PEM is needed (PKCS#8, PKCS#1 or SEC1), not encrypted";
            TlsError::new(KEY_FILE, needed)
        })?;
        let provider = Arc::new(ring::default_provider());
        let certified = CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => TlsError::new(KEY_FILE, "is not the key of the certificate in `http.tls.cert_file`"),
            rustls::Error::InvalidCertificate(_) => TlsError::new(CERT_FILE, "begins with something that is no X.509 certificate of version 3"),
            _ => TlsError::new(
                KEY_FILE,
                "holds a key of a kind that is not known here; RSA from 2048 bits, ECDSA P-256 or P-384, Ed25519 are",
            ),
        })?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])
            .expect("the provider knows suites of both versions")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self {
            config: Arc::new(config),
            good_until,
            exposed: contents.exposed,
        })
    }

    /// For handshakes.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    /// Whether its time is over.
    pub fn is_over(&self, now_ms: i64) -> bool {
        self.good_until.is_some_and(|end| end < now_ms)
    }

    /// In words: how long it is good.
    pub fn describe(&self, now_ms: i64) -> String {
        let exposed = if self.exposed {
            "; others than its owner may read the key's file"
        } else {
            ""
        };
        match self.good_until {
            None => format!("in use{exposed}"),
            Some(end) => {
                let date = chrono::DateTime::from_timestamp_millis(end).unwrap_or_default().format("%Y-%m-%dT%H:%M:%SZ");
                let (verb, days) = (if end < now_ms { "ended" } else { "good until" }, (end - now_ms).div_euclid(86_400_000));
                match days {
                    days @ 0.. => format!("{verb} {date}, {days} days from now{exposed}"),
                    _ => format!("{verb} {date}{exposed}"),
                }
            }
        }
    }

    /// Says in the log what an operator should mend.
    pub fn warn(&self, files: &Files, now_ms: i64) {
        if self.exposed {
            tracing::warn!(path = %files.key_file.display(), "others may read the private key of `{KEY_FILE}`; make it 0600");
        }
        if self.is_over(now_ms) {
            tracing::warn!(path = %files.cert_file.display(), "the time of the certificate in `{CERT_FILE}` is over");
        }
    }
}
