//! Bodies of requests. They are made before the clock starts, and repeated with new ids and request ids in place, so that making them costs the
//! measurement little.

use rand::{RngExt, SeedableRng, rngs::StdRng};
use sluice::{cli::demo::generator::Generator, model::time::now_ms};
use uuid::{Builder, Uuid};

const ID: &[u8] = br#"{"id":""#;
const REQUEST: &[u8] = br#""request_id":""#;

/// A body with the places of its ids.
pub struct Template {
    pub body: Vec<u8>,
    /// Where the id of each entry is.
    pub ids: Vec<usize>,
    requests: Vec<usize>,
    last_request: Uuid,
    rng: StdRng,
}

impl Template {
    /// So many entries: an array of them, or one alone.
    pub fn new(generator: &mut Generator, entries: usize, array: bool) -> Self {
        let (mut body, mut ids, mut requests) = (Vec::new(), Vec::new(), Vec::new());
        for i in 0..entries {
            if array {
                body.push(if i == 0 { b'[' } else { b',' });
            }
            let start = body.len();
            generator.write(&mut body);
            ids.push(start + ID.len());
            let request = memchr::memmem::find(&body[start..], REQUEST).expect("every entry of the generator has one");
            requests.push(start + request + REQUEST.len());
        }
        if array {
            body.push(b']');
        }
        Self {
            body,
            ids,
            requests,
            last_request: Uuid::nil(),
            rng: StdRng::seed_from_u64(Uuid::new_v4().as_u64_pair().0),
        }
    }

    /// Puts new ids in, as clients make them (version 7), and appends them to `sent`.
    pub fn renew(&mut self, sent: &mut Vec<Uuid>) {
        let now = now_ms().unsigned_abs();
        for (id_at, request_at) in self.ids.iter().zip(&self.requests) {
            let id = Builder::from_unix_timestamp_millis(now, &self.rng.random()).into_uuid();
            id.hyphenated().encode_lower(&mut self.body[*id_at..*id_at + 36]);
            self.last_request = Builder::from_random_bytes(self.rng.random()).into_uuid();
            self.last_request.hyphenated().encode_lower(&mut self.body[*request_at..*request_at + 36]);
            sent.push(id);
        }
    }

    /// The request id of the last entry.
    pub fn last_request(&self) -> Uuid {
        self.last_request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sending_has_new_ids_in_their_places() {
        let (mut template, mut sent) = (Template::new(&mut Generator::new(1), 3, true), Vec::new());
        for round in 1..=2 {
            template.renew(&mut sent);
            let entries: Vec<serde_json::Value> = serde_json::from_slice(&template.body).expect("JSON");
            let ids: Vec<String> = entries.iter().map(|entry| entry["id"].as_str().expect("an id").to_owned()).collect();
            assert_eq!(ids, sent[sent.len() - 3..].iter().map(Uuid::to_string).collect::<Vec<_>>());
            assert_eq!(entries[2]["request_id"], template.last_request().to_string());
            assert_eq!(sent.len(), 3 * round);
        }
        sent.sort_unstable();
        sent.dedup();
        assert_eq!(sent.len(), 6);
        assert!(sent.iter().all(|id| id.get_version_num() == 7));
    }
}
