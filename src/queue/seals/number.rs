//! A number in an object that only grows, whoever writes it: `{"n":12}`, changed by compare and swap.

use crate::{
    objects::{Key, ObjectError, Objects, Precondition, Version},
    queue::SealReadError,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, PoisonError};

/// How often a writer loses a race before it says so.
const TRIES: usize = 64;

#[derive(Serialize, Deserialize)]
struct Form {
    n: u64,
}

/// See the module. 0 while there is no object.
pub struct Number {
    objects: Arc<dyn Objects>,
    key: Key,
    /// The last content that this process has read or written: the usual writer is alone and need not read.
    known: Mutex<Option<(u64, Option<Version>)>>,
}

impl Number {
    pub fn new(objects: Arc<dyn Objects>, key: Key) -> Self {
        let known = Mutex::new(None);
        Self { objects, key, known }
    }

    fn note(&self, known: Option<(u64, Option<Version>)>) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = known;
    }

    /// Reads it. Never from memory.
    pub async fn load(&self) -> Result<u64, SealReadError> {
        let (n, version) = match self.objects.get(&self.key).await? {
            None => (0, None),
            Some((bytes, version)) => {
                let form: Form = serde_json::from_slice(&bytes).map_err(|error| SealReadError(format!("`{}` is malformed: {error}", self.key).into()))?;
                (form.n, Some(version))
            }
        };
        self.note(Some((n, version)));
        Ok(n)
    }

    /// Makes it at least `n`, durably; gives what it is then. After an error it may have been done. Not cancelled half-way:
    /// dropping the future leaves the old or the new number.
    pub async fn raise(&self, n: u64) -> Result<u64, SealReadError> {
        for _ in 0..TRIES {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let Some((found, version)) = known else {
                self.load().await?;
                continue;
            };
            if found >= n {
                return Ok(found);
            }
            let form = serde_json::to_vec(&Form { n }).expect("a number is plain data");
            let when = version.map_or(Precondition::Absent, Precondition::Version);
            self.note(None); // until the outcome is known
            match self.objects.put(&self.key, Bytes::from(form), when).await {
                Ok(version) => {
                    self.note(Some((n, Some(version))));
                    return Ok(n);
                }
                Err(ObjectError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(SealReadError(format!("`{}` is changed by too many at once", self.key).into()))
    }

    /// Removes it: 0 again.
    pub async fn remove(&self) -> Result<(), SealReadError> {
        self.note(None);
        Ok(self.objects.delete(&self.key).await?)
    }
}
