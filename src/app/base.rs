//! What every arrangement of engines begins with. Nothing is decided or served yet, and whatever is wrong with the configuration was said
//! before a port was bound.

use super::{cluster, engines, folder, folder::FolderLock};
use crate::{
    auth::{
        load::{self, Loaded},
        secret::{self, LocalSecret},
    },
    catalog::Catalog,
    config::{ConfigError, ObjectsChoice, Settings, TlsSettings},
    error::AppError,
    fs::{Fs, real::RealFs},
    http::{
        health::Health,
        tls::{self, Tls},
    },
    model::time::now_ms,
    objects::Objects,
};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::net::TcpListener;

/// How often the catalog is compared with its objects, so that a key revoked elsewhere opens nothing here after 10 s at most.
const CATALOG_EVERY: Duration = Duration::from_secs(2);

/// See the module.
pub struct Base<'a> {
    pub settings: &'a Settings,
    /// Those of the engines, read from their files.
    pub passwords: engines::Passwords,
    pub credentials: Loaded,
    pub secret: LocalSecret,
    pub listeners: [TcpListener; 2],
    pub tls: Option<Tls>,
    pub health: Arc<Health>,
    pub fs: Arc<dyn Fs>,
    pub objects: Arc<dyn Objects>,
    pub catalog: Catalog,
    pub lock: FolderLock,
}

impl<'a> Base<'a> {
    /// Locks the folder, takes the ports, opens objects and catalog. What fails here has written nothing but what a start always writes.
    pub async fn open(settings: &'a Settings) -> Result<Self, AppError> {
        let (credentials, passwords) = read_files(settings)?;
        credentials
            .warnings
            .iter()
            .chain(&passwords.warnings)
            .for_each(|warning| tracing::warn!("{warning}"));
        let lock = folder::lock(&settings.data_dir)?;
        let shared = settings.engines.queue.is_shared();
        let fs: Arc<dyn Fs> = Arc::new(RealFs);
        let mut secret = match shared {
            true => None,
            false => Some(secret::read_or_create(&settings.data_dir).map_err(crate::cli::token::secret_error)?),
        };
        let listeners = [
            bind("http.listen", settings.http.listen).await?,
            bind("admin.listen", settings.admin.listen).await?,
        ];
        let tls = settings.http.tls.as_ref().map(open_tls).transpose()?;
        let health = Arc::new(Health::new());
        if let Some(tls) = &tls {
            tls.look(&health, now_ms());
        }
        let objects = engines::objects(settings, &fs).await?;
        if !shared && matches!(settings.engines.objects, ObjectsChoice::S3 { .. }) {
            let folder = folder::name(&settings.data_dir)?;
            cluster::same_log(&*objects, folder).await?;
        }
        if shared {
            secret = Some(cluster::shared_secret(&*objects, &settings.data_dir).await?);
        }
        let catalog = Catalog::open(objects.clone()).await.map_err(AppError::failed)?;
        catalog.follow(CATALOG_EVERY);
        Ok(Self {
            settings,
            passwords,
            credentials,
            secret: secret.expect("one of the two branches made it"),
            listeners,
            tls,
            health,
            fs,
            objects,
            catalog,
            lock,
        })
    }
}

/// Reads what settings name: keys, secrets, passwords. Says all that is wrong at once. Blocks.
pub fn read_files(settings: &Settings) -> Result<(Loaded, engines::Passwords), AppError> {
    match (load::load(&settings.auth), engines::Passwords::read(&settings.engines)) {
        (Ok(credentials), Ok(passwords)) => Ok((credentials, passwords)),
        (credentials, passwords) => {
            let wrong = credentials.err().into_iter().chain(passwords.err()).flatten();
            Err(AppError::usage(ConfigError::found(wrong.collect())))
        }
    }
}

async fn bind(key: &str, listen: SocketAddr) -> Result<TcpListener, AppError> {
    TcpListener::bind(listen)
        .await
        .map_err(|e| AppError::cannot_start(format!("cannot listen on {listen} (`{key}`): {e}")))
}

/// Reads the certificate: what is wrong with it is a wrong configuration.
pub fn open_tls(files: &TlsSettings) -> Result<Tls, AppError> {
    let files = tls::Files {
        cert_file: files.cert_file.clone(),
        key_file: files.key_file.clone(),
    };
    Tls::open(files.clone()).map_err(|error| AppError::usage(format!("configuration: {error} (`{}`)", files.of(error.key).display())))
}
