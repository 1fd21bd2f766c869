//! Objects in S3, or in what speaks its protocol, through the `object_store` crate.
//!
//! A `put` that S3 confirmed is durable. The version of an object is its entity tag; conditions are the headers `If-None-Match: *` and
//! `If-Match`, which S3 decides as one step with the write. A store that ignores them would let two owners seal under one number, so
//! [`S3Objects::check`] tries it before anything is trusted to it.
//!
//! Reads, deletions and unconditional writes are tried again by the client, with back-off, for [`PATIENCE`]. **A conditional write is sent
//! once**: repeated after an answer that was lost, it would meet its own first copy and report a conflict, which promises that
//! nothing was written. It is an [`ObjectError::Io`] instead, and the caller reads the object to find out.
//!
//! Credentials and region come by the ordinary AWS chain, an endpoint from `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`. With an endpoint
//! of its own, buckets are addressed by path, as such servers expect.

use super::{Key, ObjectError, Objects, Precondition, Version, is_folder};
use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_types::service_config::ServiceConfigKey;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture, stream};
use object_store::{
    BackoffConfig, ClientOptions, CredentialProvider, Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, RetryConfig,
    UpdateVersion,
    aws::{AmazonS3, AmazonS3Builder, AwsCredential, S3ConditionalPut},
    path::Path,
};
use std::{fmt, ops::Range, sync::Arc, time::Duration};
use uuid::Uuid;

/// How long reads and unconditional writes are tried again.
const PATIENCE: Duration = Duration::from_secs(10);
/// One request, headers and body.
const REQUEST: Duration = Duration::from_secs(20);
const CONNECT: Duration = Duration::from_secs(3);
/// Objects that are deleted at once by [`Objects::clear`].
const DELETIONS: usize = 16;

/// Where objects are: `s3://bucket/prefix`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Location {
    /// The bucket.
    pub bucket: String,
    /// What every name begins with, without slashes at its ends; may be empty.
    pub prefix: String,
}

impl S3Location {
    /// Reads `s3://bucket/prefix`. The prefix is made as folders of object names are.
    pub fn parse(url: &str) -> Option<Self> {
        let rest = url.strip_prefix("s3://")?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/');
        let good_bucket = (3..=63).contains(&bucket.len()) && bucket.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'));
        let good = good_bucket && (prefix.is_empty() || prefix.split('/').all(is_folder));
        good.then(|| Self {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        })
    }
}

/// The engine. Cheap to clone.
#[derive(Clone)]
pub struct S3Objects(Arc<Inner>);

struct Inner {
    /// Tries again by itself.
    patient: AmazonS3,
    /// Sends every request once.
    once: AmazonS3,
    prefix: String,
    bucket: String,
}

/// The credentials of the AWS chain, as the client wants them. The chain keeps them until they are about to expire.
struct Chain(SharedCredentialsProvider);

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the AWS credential chain")
    }
}

#[async_trait]
impl CredentialProvider for Chain {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let found = self.0.provide_credentials().await.map_err(|e| Error::Generic {
            store: "S3",
            source: Box::new(e),
        })?;
        Ok(Arc::new(AwsCredential {
            key_id: found.access_key_id().to_owned(),
            secret_key: found.secret_access_key().to_owned(),
            token: found.session_token().map(str::to_owned),
        }))
    }
}

impl S3Objects {
    /// A client. Nothing is sent yet; [`S3Objects::check`] does. The error says what the configuration lacks.
    pub fn connect(at: &S3Location, aws: &SdkConfig) -> Result<Self, ObjectError> {
        let own = ServiceConfigKey::builder()
            .service_id("s3")
            .env("AWS_ENDPOINT_URL")
            .profile("endpoint_url")
            .build();
        let own = own.ok().and_then(|key| aws.service_config()?.load_config(key));
        let endpoint = own.or_else(|| aws.endpoint_url().map(str::to_owned));
        let credentials = aws
            .credentials_provider()
            .ok_or_else(|| ObjectError::Io("there are no AWS credentials".into()))?;
        let region = aws.region().map_or("us-east-1", |region| region.as_ref());
        let plain = endpoint.as_deref().is_some_and(|url| url.starts_with("http://"));
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&at.bucket)
            .with_region(region)
            .with_credentials(Arc::new(Chain(credentials)))
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_client_options(ClientOptions::new().with_timeout(REQUEST).with_connect_timeout(CONNECT).with_allow_http(plain));
        builder = match &endpoint {
            Some(url) => builder.with_endpoint(url.trim_end_matches('/')),
            None => builder.with_virtual_hosted_style_request(true),
        };
        let client = |retries: usize| {
            let retry = RetryConfig {
                backoff: BackoffConfig::default(),
                max_retries: retries,
                retry_timeout: PATIENCE,
            };
            builder.clone().with_retry(retry).build().map_err(|e| failed(&e))
        };
        Ok(Self(Arc::new(Inner {
            patient: client(10)?,
            once: client(0)?,
            prefix: at.prefix.clone(),
            bucket: at.bucket.clone(),
        })))
    }

    /// Whether the bucket can be written, read and deleted from, and refuses a second creation of one name. The error is for the person who
    /// configured it.
    pub async fn check(&self) -> Result<(), ObjectError> {
        let refused = |what: &str, error: &dyn fmt::Display| ObjectError::Io(format!("the bucket `{}` {what}: {error}", self.0.bucket).into());
        let refused = |what: &str, error: &ObjectError| match error {
            ObjectError::Io(why) => refused(what, why),
            other => refused(what, other),
        };
        let key = Key::parse(&format!("cluster/probe-{}.json", Uuid::new_v4()))?;
        self.put(&key, "{}".into(), Precondition::Absent)
            .await
            .map_err(|e| refused("cannot be written", &e))?;
        let second = self.put(&key, "{}".into(), Precondition::Absent).await;
        self.get(&key).await.map_err(|e| refused("cannot be read", &e))?;
        self.delete(&key).await.map_err(|e| refused("does not let objects be deleted", &e))?;
        match second {
            Err(ObjectError::Conflict) => Ok(()),
            Ok(_) => Err(refused(
                "does not honour conditional writes (`If-None-Match: *`)",
                &ObjectError::Io("it overwrote an object that was there".into()),
            )),
            Err(error) => Err(refused("does not answer conditional writes", &error)),
        }
    }
}

impl Inner {
    fn path(&self, name: &str) -> Path {
        if self.prefix.is_empty() {
            Path::from(name)
        } else {
            Path::from(format!("{}/{name}", self.prefix))
        }
    }

    fn key(&self, path: &Path) -> Option<Key> {
        let name = path.as_ref();
        let name = if self.prefix.is_empty() {
            name
        } else {
            name.strip_prefix(self.prefix.as_str())?.strip_prefix('/')?
        };
        Key::parse(name).ok() // what others put into the bucket is not ours
    }

    async fn get(&self, key: &Key) -> Result<Option<(Bytes, Version)>, ObjectError> {
        let found = match self.patient.get(&self.path(key.as_str())).await {
            Ok(found) => found,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(failed(&error)),
        };
        let version = version(found.meta.e_tag.as_deref())?;
        let bytes = found.bytes().await.map_err(|e| failed(&e))?;
        Ok(Some((bytes, version)))
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>, ObjectError> {
        let path = self.path(key.as_str());
        if range.is_empty() {
            return self.size(&path).await.map(|size| size.map(|_| Bytes::new()));
        }
        let options = GetOptions {
            range: Some(GetRange::Bounded(range.clone())),
            ..GetOptions::default()
        };
        match self.patient.get_opts(&path, options).await {
            Ok(found) => Ok(Some(found.bytes().await.map_err(|e| failed(&e))?)),
            Err(Error::NotFound { .. }) => Ok(None),
            // A range behind the end is refused, and the client does not say so in a way of its own.
            Err(error) => match self.size(&path).await? {
                None => Ok(None),
                Some(size) if size <= range.start => Ok(Some(Bytes::new())),
                Some(_) => Err(failed(&error)),
            },
        }
    }

    async fn size(&self, path: &Path) -> Result<Option<u64>, ObjectError> {
        match self.patient.head(path).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed(&error)),
        }
    }

    async fn put(&self, key: &Key, bytes: Bytes, when: Precondition) -> Result<Version, ObjectError> {
        let (client, mode) = match when {
            Precondition::Any => (&self.patient, PutMode::Overwrite),
            Precondition::Absent => (&self.once, PutMode::Create),
            Precondition::Version(version) => {
                let update = UpdateVersion {
                    e_tag: Some(version.0.to_string()),
                    version: None,
                };
                (&self.once, PutMode::Update(update))
            }
        };
        let options = PutOptions::from(mode);
        match client.put_opts(&self.path(key.as_str()), PutPayload::from(bytes), options).await {
            Ok(put) => version(put.e_tag.as_deref()),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotModified { .. }) => Err(ObjectError::Conflict),
            Err(error) => Err(failed(&error)),
        }
    }

    async fn delete(&self, path: &Path) -> Result<(), ObjectError> {
        match self.patient.delete(path).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed(&error)),
        }
    }

    async fn list(&self, folder: &str) -> Result<Vec<Key>, ObjectError> {
        let prefix = self.path(folder);
        let found: Vec<_> = self.patient.list(Some(&prefix)).try_collect().await.map_err(|e| failed(&e))?;
        let mut keys: Vec<_> = found.iter().filter_map(|meta| self.key(&meta.location)).collect();
        keys.sort_unstable();
        Ok(keys)
    }

    async fn clear(&self, folder: &str) -> Result<(), ObjectError> {
        let prefix = self.path(folder);
        let found: Vec<_> = self.patient.list(Some(&prefix)).try_collect().await.map_err(|e| failed(&e))?;
        stream::iter(found)
            .map(|meta| async move { self.delete(&meta.location).await })
            .buffer_unordered(DELETIONS)
            .try_collect()
            .await
    }
}

impl Objects for S3Objects {
    fn get(&self, key: &Key) -> BoxFuture<'static, Result<Option<(Bytes, Version)>, ObjectError>> {
        let (inner, key) = (self.0.clone(), key.clone());
        async move { inner.get(&key).await }.boxed()
    }

    fn get_range(&self, key: &Key, range: Range<u64>) -> BoxFuture<'static, Result<Option<Bytes>, ObjectError>> {
        let (inner, key) = (self.0.clone(), key.clone());
        async move { inner.get_range(&key, range).await }.boxed()
    }

    fn put(&self, key: &Key, bytes: Bytes, when: Precondition) -> BoxFuture<'static, Result<Version, ObjectError>> {
        let (inner, key) = (self.0.clone(), key.clone());
        unstoppable(async move { inner.put(&key, bytes, when).await })
    }

    fn delete(&self, key: &Key) -> BoxFuture<'static, Result<(), ObjectError>> {
        let (inner, key) = (self.0.clone(), key.clone());
        unstoppable(async move { inner.delete(&inner.path(key.as_str())).await })
    }

    fn clear(&self, folder: &str) -> BoxFuture<'static, Result<(), ObjectError>> {
        let (inner, folder) = (self.0.clone(), checked(folder));
        unstoppable(async move { inner.clear(&folder?).await })
    }

    fn list(&self, folder: &str) -> BoxFuture<'static, Result<Vec<Key>, ObjectError>> {
        let (inner, folder) = (self.0.clone(), checked(folder));
        async move { inner.list(&folder?).await }.boxed()
    }
}

/// Work that goes on when whoever waits for it goes away: an upload that is cut off in the middle would leave it open what became of it.
fn unstoppable<T: Send + 'static>(work: impl Future<Output = Result<T, ObjectError>> + Send + 'static) -> BoxFuture<'static, Result<T, ObjectError>> {
    async move {
        let done = tokio::spawn(work).await;
        done.unwrap_or_else(|e| Err(ObjectError::Io(format!("the work was not done: {e}").into())))
    }
    .boxed()
}

fn checked(folder: &str) -> Result<String, ObjectError> {
    let good = folder.split('/').all(is_folder);
    good.then(|| folder.to_owned()).ok_or_else(|| ObjectError::InvalidKey(folder.to_owned()))
}

fn version(e_tag: Option<&str>) -> Result<Version, ObjectError> {
    e_tag.map(Version::new).ok_or_else(|| ObjectError::Io("the store gives no entity tags".into()))
}

/// What a person can mend in words of ours; else the text of the client, which names status and object, never a credential or contents.
fn failed(error: &Error) -> ObjectError {
    match error {
        // Of an object that is not there this is no failure.
        Error::NotFound { .. } => ObjectError::Io("the bucket does not exist".into()),
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
            ObjectError::Io("access is denied: check the AWS credentials, and what they may do with the bucket".into())
        }
        error => ObjectError::Io(error.to_string().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        objects::contract,
        testing::{aws, engines},
    };

    async fn open(bucket: &str) -> Option<S3Objects> {
        let endpoint = engines::address("SLUICE_TEST_S3")?;
        let at = S3Location::parse(&format!("s3://{bucket}/some/where")).expect("a location");
        Some(S3Objects::connect(&at, &aws::config(&endpoint).await).expect("a client"))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn s3_keeps_the_contract() {
        let Some(endpoint) = engines::address("SLUICE_TEST_S3") else { return };
        let bucket = aws::make_bucket(&endpoint).await;
        let objects = open(&bucket).await.expect("an address");
        objects.check().await.expect("it can be used");
        contract::holds(Arc::new(objects.clone())).await;
        objects.clear("race").await.expect("cleared");
        assert!(objects.list("race").await.expect("listed").is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_bucket_that_is_not_there_is_named() {
        let Some(objects) = open("there-is-no-such-bucket").await else { return };
        let error = objects.check().await.expect_err("no bucket").to_string();
        assert!(
            error.contains("`there-is-no-such-bucket` cannot be written") && error.contains("does not exist"),
            "{error}"
        );
        assert!(!error.contains("testtest"), "no secret: {error}");
    }

    #[test]
    fn locations_are_buckets_and_folders() {
        let at = |bucket: &str, prefix: &str| {
            Some(S3Location {
                bucket: bucket.into(),
                prefix: prefix.into(),
            })
        };
        assert_eq!(S3Location::parse("s3://abc"), at("abc", ""));
        assert_eq!(S3Location::parse("s3://abc/x/y/"), at("abc", "x/y"));
        for bad in [
            "abc",
            "s3://",
            "s3://ab",
            "s3://a_b_c/x",
            "s3://abc//x",
            "s3://abc/../x",
            "s3://abc/X",
            "https://abc/x",
        ] {
            assert_eq!(S3Location::parse(bad), None, "{bad}");
        }
    }
}
