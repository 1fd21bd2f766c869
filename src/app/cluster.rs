//! What the processes of one deployment must agree on, kept in its objects: the local secret, and the list of partitions.
//!
//! | object | holds |
//! |---|---|
//! | `cluster/secret.json` | `{"version": 1, "secret": "…"}`: the text of the file `secret` of every data folder |
//! | `cluster/partitions.json` | `{"version": 1, "kind": "sqs", "partitions": ["/123/audit"]}`: queues in their order, without hosts; of a `wal` its data folder |
//!
//! Both are created once, if absent, by whichever process starts first. A data folder without a `secret` takes the shared one, so that
//! `sluice token` makes tokens in any process's folder which all of them accept; one that differs is refused, and so is another list:
//! a tenant's partition follows from its place in the list, and its numbers come from one partition only. (ADR 0027)
//! So two logs, each in a data folder of its own, cannot share a bucket and prefix either: both would number the same tenants.

use crate::{
    auth::secret::{self, LocalSecret, SecretError},
    config::QueueChoice,
    error::AppError,
    objects::{Key, ObjectError, Objects, Precondition},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{io, path::Path};
use uuid::Uuid;

const VERSION: u32 = 1;
const SECRET: &str = "cluster/secret.json";
const PARTITIONS: &str = "cluster/partitions.json";

#[derive(Serialize, Deserialize)]
struct SharedSecret {
    version: u32,
    secret: String,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Partitions {
    version: u32,
    kind: String,
    partitions: Vec<String>,
}

/// The local secret of a process that shares its queue with others: that of the deployment, in the data folder too. Blocks for a moment.
pub async fn shared_secret(objects: &dyn Objects, data_dir: &Path) -> Result<LocalSecret, AppError> {
    let own = match secret::read(data_dir) {
        Ok(own) => String::from_utf8(own.key().to_vec()).map_err(|_| AppError::usage("the local secret is not UTF-8, so it cannot be shared"))?,
        Err(SecretError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            // Made in the objects first: of several new processes one makes it, and the others take that one.
            let new = SharedSecret {
                version: VERSION,
                secret: secret::fresh().map_err(AppError::failed)?,
            };
            let shared = agree(objects, SECRET, &new).await?;
            return secret::adopt(data_dir, &shared.secret).map_err(crate::cli::token::secret_error);
        }
        Err(error) => return Err(crate::cli::token::secret_error(error)),
    };
    let mine = SharedSecret { version: VERSION, secret: own };
    let shared = agree(objects, SECRET, &mine).await?;
    if shared.secret == mine.secret {
        return secret::read(data_dir).map_err(crate::cli::token::secret_error);
    }
    Err(AppError::failed(format!(
        "`{}` is not the secret that the processes of this deployment share, so tokens of one would be refused by the others; if nobody needs its tokens any more, \
         delete it: the next start takes the shared one",
        data_dir.join(secret::FILE).display()
    )))
}

/// Records the partitions at the first start, and refuses another list ever after.
pub async fn same_partitions(objects: &dyn Objects, queue: &QueueChoice) -> Result<(), AppError> {
    let (key, given) = match queue {
        QueueChoice::Wal => return Ok(()),
        QueueChoice::Sqs(sqs) => ("queue.sqs.urls", &sqs.urls),
        QueueChoice::Kinesis(kinesis) => ("queue.kinesis.streams", &kinesis.streams),
    };
    let mine = Partitions {
        version: VERSION,
        kind: queue.name().to_owned(),
        partitions: given.iter().map(|name| place(name)).collect(),
    };
    match agree(objects, PARTITIONS, &mine).await? {
        recorded if recorded == mine => Ok(()),
        recorded => Err(another(key, &mine, &recorded)),
    }
}

/// Records the data folder, by its [name](super::folder::name), whose log has these objects for itself, and refuses another ever after.
pub async fn same_log(objects: &dyn Objects, folder: Uuid) -> Result<(), AppError> {
    let mine = Partitions {
        version: VERSION,
        kind: QueueChoice::Wal.name().to_owned(),
        partitions: vec![folder.to_string()],
    };
    match agree(objects, PARTITIONS, &mine).await? {
        recorded if recorded == mine => Ok(()),
        recorded if recorded.kind == mine.kind => Err(AppError::usage(format!(
            "configuration: `objects.url` belongs to the log of another data folder ({:?}): two logs would number the same tenants, so each needs a prefix of its \
             own; if that folder is gone for good, with whatever it had not stored, delete the object `{PARTITIONS}` there",
            recorded.partitions
        ))),
        recorded => Err(another("queue.kind", &mine, &recorded)),
    }
}

fn another(key: &str, mine: &Partitions, recorded: &Partitions) -> AppError {
    AppError::usage(format!(
        "configuration: `{key}` names the partitions {:?} of kind `{}`, but `objects.url` was first used with {:?} of kind `{}`: a tenant's partition follows from \
         its place in the list, so the list must stay as it is",
        mine.partitions, mine.kind, recorded.partitions, recorded.kind
    ))
}

/// A queue's name without the host, which may change (a proxy, another endpoint); a stream's name without its account.
fn place(name: &str) -> String {
    match name.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or_else(|| rest.to_owned(), |at| rest[at..].to_owned()),
        None => name.rsplit('/').next().unwrap_or(name).to_owned(),
    }
}

/// The object, made of `mine` if there is none yet.
async fn agree<T: Serialize + DeserializeOwned>(objects: &dyn Objects, name: &str, mine: &T) -> Result<T, AppError> {
    if let Some(there) = read(objects, name).await? {
        return Ok(there);
    }
    let bytes = Bytes::from(serde_json::to_vec(mine).expect("plain data always serialises"));
    match objects.put(&key(name), bytes, Precondition::Absent).await {
        // One whose answer was lost may have taken effect: what stands there now counts.
        Ok(_) | Err(ObjectError::Conflict | ObjectError::Io(_)) => {}
        Err(error) => return Err(unreadable(name, &error)),
    }
    read(objects, name).await?.ok_or_else(|| unreadable(name, &"it cannot be written"))
}

async fn read<T: DeserializeOwned>(objects: &dyn Objects, name: &str) -> Result<Option<T>, AppError> {
    let found = objects.get(&key(name)).await.map_err(|error| unreadable(name, &error))?;
    // Its text may be a secret.
    found
        .map(|(bytes, _)| serde_json::from_slice(&bytes).map_err(|_| unreadable(name, &"it is damaged, or of a later version")))
        .transpose()
}

fn key(name: &str) -> Key {
    Key::parse(name).expect("a fixed name that is well formed")
}

fn unreadable(name: &str, why: &dyn std::fmt::Display) -> AppError {
    AppError::failed(format!("the object `{name}` of `objects.url` cannot be used: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::SqsSettings, error::Exit, fs::real::RealFs, objects::folder::FolderObjects};
    use std::{fs, sync::Arc, time::Duration};
    use tempfile::TempDir;

    fn objects(dir: &TempDir) -> FolderObjects {
        FolderObjects::open(Arc::new(RealFs), dir.path().join("objects")).expect("a folder")
    }

    #[tokio::test]
    async fn all_processes_have_the_secret_of_the_first() {
        let dir = tempfile::tempdir().expect("a folder");
        let objects = objects(&dir);
        let folders = ["a", "b", "c"].map(|name| dir.path().join(name));
        let first = shared_secret(&objects, &folders[0]).await.expect("made");
        for folder in &folders {
            let secret = shared_secret(&objects, folder).await.expect("taken");
            assert_eq!(secret.key(), first.key());
            assert!(!secret.is_exposed());
            assert_eq!(secret::read(folder).expect("in the folder").key(), first.key());
        }
    }

    #[tokio::test]
    async fn new_processes_that_start_at_once_agree() {
        let dir = tempfile::tempdir().expect("a folder");
        let objects = objects(&dir);
        let folders: Vec<_> = (0..8).map(|n| dir.path().join(n.to_string())).collect();
        let secrets = futures_util::future::join_all(folders.iter().map(|folder| shared_secret(&objects, folder))).await;
        let keys: Vec<_> = secrets.into_iter().map(|secret| secret.expect("there").key().to_vec()).collect();
        assert!(keys.iter().all(|key| *key == keys[0]));
    }

    #[tokio::test]
    async fn a_secret_from_before_is_shared_and_one_that_differs_is_refused_and_kept() {
        let dir = tempfile::tempdir().expect("a folder");
        let objects = objects(&dir);
        let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
        let before = secret::read_or_create(&a).expect("`sluice token` was called before the first start");
        assert_eq!(shared_secret(&objects, &a).await.expect("shared").key(), before.key());
        let other = secret::read_or_create(&b).expect("made");
        let refused = shared_secret(&objects, &b).await.map(|_| ()).expect_err("it differs");
        assert!(refused.exit == Exit::Failed && refused.message.contains("delete it"), "{refused}");
        assert!(!refused.message.contains(std::str::from_utf8(other.key()).expect("text")));
        assert_eq!(secret::read(&b).expect("there").key(), other.key());
        fs::remove_file(b.join(secret::FILE)).expect("there");
        assert_eq!(shared_secret(&objects, &b).await.expect("taken").key(), before.key());
    }

    fn sqs(urls: &[&str]) -> QueueChoice {
        QueueChoice::Sqs(SqsSettings {
            urls: urls.iter().map(|url| (*url).to_owned()).collect(),
            dead_letter_urls: Vec::new(),
            linger: Duration::ZERO,
            wait: Duration::ZERO,
            visibility: Duration::ZERO,
            min_retention: Duration::ZERO,
            receivers: 1,
            credit: 1,
        })
    }

    #[tokio::test]
    async fn the_list_of_partitions_stays_as_it_was_first() {
        let dir = tempfile::tempdir().expect("a folder");
        let objects = objects(&dir);
        same_partitions(&objects, &QueueChoice::Wal).await.expect("there are none");
        same_partitions(&objects, &sqs(&["http://here/1/a", "http://here/1/b"]))
            .await
            .expect("the first");
        same_partitions(&objects, &sqs(&["https://there:9/1/a", "https://there:9/1/b"]))
            .await
            .expect("by another way");
        for other in [
            &["http://here/1/b", "http://here/1/a"][..],
            &["http://here/1/a"],
            &["http://here/1/a", "http://here/2/b"],
        ] {
            let refused = same_partitions(&objects, &sqs(other)).await.expect_err("another list");
            assert!(refused.exit == Exit::Usage && refused.message.contains("`queue.sqs.urls`"), "{refused}");
        }
        let refused = same_log(&objects, Uuid::from_u128(1)).await.expect_err("a log after a queue");
        assert!(refused.exit == Exit::Usage && refused.message.contains("`queue.kind`"), "{refused}");
    }

    #[tokio::test]
    async fn the_log_of_one_folder_has_the_objects_for_itself() {
        let dir = tempfile::tempdir().expect("a folder");
        let objects = objects(&dir);
        for _ in 0..2 {
            same_log(&objects, Uuid::from_u128(1)).await.expect("its own");
        }
        let refused = same_log(&objects, Uuid::from_u128(2)).await.expect_err("another log");
        assert!(
            refused.exit == Exit::Usage && refused.message.contains("another data folder") && refused.message.contains("delete the object"),
            "{refused}"
        );
        let refused = same_partitions(&objects, &sqs(&["http://here/1/a"])).await.expect_err("a queue after a log");
        assert_eq!(refused.exit, Exit::Usage, "{refused}");
    }
}
