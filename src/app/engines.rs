//! The engines that the configuration names, reached: objects, stores, queues. An engine whose Cargo feature this binary was built without
//! is refused by `config`, so what stands here for its absence is never met.

use crate::{
    auth::{
        load::{self, Wrong},
        settings::Secret,
    },
    config::{AnalyticsChoice, EngineSettings, ObjectsChoice, SearchChoice, Settings},
    error::AppError,
    fs::Fs,
    objects::{Objects, folder::FolderObjects},
};
use std::sync::Arc;

/// What the engines ask for, read from its files. Never printed.
#[derive(Default)]
pub struct Passwords {
    /// ClickHouse's; "" without one.
    pub clickhouse: String,
    /// OpenSearch's.
    pub opensearch: String,
    /// What works, but should not stay so: one line each.
    pub warnings: Vec<String>,
}

impl Passwords {
    /// Reads them. Blocks.
    pub fn read(engines: &EngineSettings) -> Result<Self, Vec<Wrong>> {
        let (mut this, mut wrong) = (Self::default(), Vec::new());
        if let AnalyticsChoice::ClickHouse(clickhouse) = &engines.analytics {
            this.clickhouse = password(&clickhouse.password, "clickhouse.password_file", &mut this.warnings, &mut wrong);
        }
        if let SearchChoice::OpenSearch(opensearch) = &engines.search {
            this.opensearch = password(&opensearch.password, "opensearch.password_file", &mut this.warnings, &mut wrong);
        }
        if wrong.is_empty() { Ok(this) } else { Err(wrong) }
    }
}

fn password(secret: &Option<Secret>, file_key: &str, warnings: &mut Vec<String>, wrong: &mut Vec<Wrong>) -> String {
    match secret {
        None => String::new(),
        Some(Secret::Given(text)) => text.reveal().to_owned(),
        Some(Secret::File(path)) => load::secret_file(path, file_key, warnings).unwrap_or_else(|one| {
            wrong.push(one);
            String::new()
        }),
    }
}

/// The objects.
pub async fn objects(settings: &Settings, fs: &Arc<dyn Fs>) -> Result<Arc<dyn Objects>, AppError> {
    match &settings.engines.objects {
        ObjectsChoice::Folder(dir) => {
            let folder = FolderObjects::open(fs.clone(), dir.clone()).map_err(AppError::cannot_start)?;
            Ok(Arc::new(folder))
        }
        ObjectsChoice::S3 { bucket, prefix } => s3(bucket, prefix).await,
    }
}

/// A bucket that answers, and that decides conditional writes.
#[cfg(feature = "s3")]
async fn s3(bucket: &str, prefix: &str) -> Result<Arc<dyn Objects>, AppError> {
    use crate::objects::{
        ObjectError,
        s3::{S3Location, S3Objects},
    };
    let at = S3Location {
        bucket: bucket.to_owned(),
        prefix: prefix.to_owned(),
    };
    // Of what a server says, often a page of XML, the first line.
    let line = |e: ObjectError| e.to_string().lines().next().unwrap_or_default().to_owned();
    let wrong = |e| AppError::failed(format!("`objects.url` is `s3://{bucket}/{prefix}`: {}", line(e)));
    let objects = S3Objects::connect(&at, &aws().await).map_err(wrong)?;
    objects.check().await.map_err(wrong)?;
    Ok(Arc::new(objects))
}

#[cfg(not(feature = "s3"))]
async fn s3(_: &str, _: &str) -> Result<Arc<dyn Objects>, AppError> {
    Err(not_built("s3"))
}

/// Region, keys and endpoints by the ordinary chain.
#[cfg(any(feature = "sqs", feature = "kinesis", feature = "s3"))]
pub async fn aws() -> aws_config::SdkConfig {
    use crate::queue::remote::aws::{AwsSettings, config};
    config(&AwsSettings::default()).await
}

/// `config` refuses what is not built; this keeps such a binary whole all the same.
#[cfg(not(all(feature = "sqs", feature = "kinesis", feature = "clickhouse", feature = "opensearch", feature = "s3")))]
pub fn not_built(feature: &str) -> AppError {
    AppError::usage(format!("this needs the Cargo feature `{feature}`, which this binary was built without"))
}
