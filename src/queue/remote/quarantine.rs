//! Keeps messages that nobody can read, so that they neither block the queue nor vanish when its retention ends.
//!
//! One object for each message, `quarantine/<partition>/<name of the message>.bin`, with the body as it came: whoever finds out what it
//! is can send it again. Nothing in it is trusted enough to name a tenant, so it is no dead letter. It is kept until a person deletes it.

use super::trials::Trials;
use crate::objects::{Key, ObjectError, Objects, Precondition};
use bytes::Bytes;
use std::{fmt::Write, sync::Arc};

/// The longest name of a message that is used as it is.
const NAME: usize = 150;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Quarantine {
    objects: Arc<dyn Objects>,
    partition: u32,
}

impl Quarantine {
    /// The quarantine of a partition.
    pub fn new(objects: Arc<dyn Objects>, partition: u32) -> Self {
        Self { objects, partition }
    }

    /// Which messages of the partition are not to be opened, for a consumer that begins.
    pub fn trials(&self) -> Trials {
        Trials::new(self.objects.clone(), self.partition)
    }

    /// Keeps a message; durable when it returns. The same message again is fine.
    pub async fn keep(&self, message: &str, body: Bytes) -> Result<(), ObjectError> {
        let key = Key::parse(&format!("quarantine/{}/{}.bin", self.partition, name(message)))?;
        self.objects.put(&key, body, Precondition::Any).await.map(drop)
    }
}

/// The message's name as part of an object's name: as it is, where it may be, else its hash.
fn name(message: &str) -> String {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    if (1..=NAME).contains(&message.len()) && message.bytes().all(plain) {
        return message.to_owned();
    }
    let mut name = String::new();
    let _ = write!(name, "x{:032x}", xxhash_rust::xxh3::xxh3_128(message.as_bytes())); // a String takes everything
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_a_message_makes_an_object() {
        let long = "a".repeat(500);
        for message in ["", "0b1d-4c", "../../etc", "ABC", &long, "shardId-000:4955#1"] {
            let key = format!("quarantine/0/{}.bin", name(message));
            assert!(Key::parse(&key).is_ok(), "{key}");
        }
        assert_ne!(name("A"), name("B"));
    }
}
