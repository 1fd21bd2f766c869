//! API keys: what a service proves itself with.
//!
//! # A key
//!
//! `slk_<id>_<secret>`: 16 and 43 characters of `A-Z a-z 0-9`, drawn evenly from the system's random numbers. The id (95 bits)
//! names the key, everywhere and for ever; the secret has 256 bits. Only the SHA-256 of the whole text is kept. A fast hash is
//! right here: slow ones protect what people choose, which can be guessed; of 256 random bits nobody guesses one in a lifetime
//! of the sun, so that there is nothing to slow down, and a request costs a microsecond instead of a core.
//!
//! # Object `catalog/keys/<tenant id>.json`, format 1
//!
//! `{"format": 1, "revision": N, "items": [{key_id, name, role, sha256, created_at, expires_at}]}`: the keys of one tenant and
//! how often the list was written, from 1; `role` is one name, `sha256` has 64 hexadecimal digits, times are RFC 3339, and
//! `expires_at` may be null.

use super::{
    CatalogError, checked_name,
    roster::{Item, Unreadable},
};
use crate::{
    auth::{Role, hex},
    model::{
        tenant::TenantId,
        time::{now_ms, parse_rfc3339, rfc3339},
    },
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{fmt, sync::Arc};
use subtle::ConstantTimeEq;

/// What every key begins with.
pub const KEY_PREFIX: &str = "slk_";
const ID_LEN: usize = 16;
/// 62^43 is a little more than 2^256.
const SECRET_LEN: usize = 43;
/// With `key:` before it, it is the subject of entries, which has 256 bytes at most.
const MAX_NAME: usize = 200;

/// An API key, as memory has it: everything but its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its id: 16 letters and digits, unique everywhere.
    pub key_id: Arc<str>,
    /// Whose it is.
    pub tenant: TenantId,
    /// Its name, which entries show; need not be unique.
    pub name: Box<str>,
    /// What it may do; never a platform admin.
    pub role: Role,
    /// When it was made, milliseconds since 1970.
    pub created_at: i64,
    /// When it ends, seconds since 1970.
    pub expires_at: Option<i64>,
    sha256: [u8; 32],
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey")
            .field("key_id", &self.key_id)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

impl ApiKey {
    /// The id in the text of a key, if it has the form of one. Says nothing about whether there is such a key.
    pub fn id_in(presented: &str) -> Option<&str> {
        let (id, secret) = presented.strip_prefix(KEY_PREFIX)?.split_once('_')?;
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric());
        (id.len() == ID_LEN && secret.len() == SECRET_LEN && plain(id) && plain(secret)).then_some(id)
    }

    /// Whether the text is this key. Takes the same time whatever it is. Does not look at the expiry.
    pub fn verify(&self, presented: &str) -> bool {
        let hash: [u8; 32] = Sha256::digest(presented.as_bytes()).into();
        hash.ct_eq(&self.sha256).into()
    }

    /// Whether the key has expired at this time, seconds since 1970.
    pub fn is_over(&self, now: i64) -> bool {
        self.expires_at.is_some_and(|at| now >= at)
    }

    /// Whom entries name that were written with it: `key:<name>`, so that a service stays the same when its key is replaced by
    /// another of that name. At most 256 bytes.
    pub fn subject(&self) -> String {
        format!("key:{}", self.name)
    }
}

/// What a new key is made of.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// Its name.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// When it ends, seconds since 1970; in the future.
    pub expires_at: Option<i64>,
}

/// The text of a new key. It is shown once and kept nowhere.
#[derive(Clone)]
pub struct KeyText(String);

impl KeyText {
    /// The text, for whoever asked for the key.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for KeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyText(…)")
    }
}

/// Checks what is asked for and draws the key; nothing is stored yet.
pub(super) fn issue(new: NewKey) -> Result<(StoredKey, KeyText), CatalogError> {
    let invalid = |field: &str, message: &str| CatalogError::Invalid {
        field: field.to_owned(),
        message: message.to_owned(),
    };
    let name = checked_name(new.name)?;
    if name.len() > MAX_NAME {
        return Err(invalid("name", "must have at most 200 bytes"));
    }
    if new.role == Role::PlatformAdmin {
        return Err(invalid("role", "must be `writer`, `viewer`, `auditor` or `admin`"));
    }
    let created_at = now_ms();
    if new.expires_at.is_some_and(|at| at.saturating_mul(1000) <= created_at) {
        return Err(invalid("expires_at", "must be in the future"));
    }
    let id = random_text::<ID_LEN>()?;
    let text = format!("{KEY_PREFIX}{id}_{}", random_text::<SECRET_LEN>()?);
    let stored = StoredKey {
        key_id: id,
        name,
        role: new.role,
        sha256: hex::encode(&Sha256::digest(text.as_bytes())),
        created_at: rfc3339(created_at),
        expires_at: new.expires_at.map(|at| rfc3339(at * 1000)),
    };
    Ok((stored, KeyText(text)))
}

/// Letters and digits, each as likely as the others.
fn random_text<const N: usize>() -> Result<String, CatalogError> {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    /// Bytes from here on would make some digits likelier.
    const END: u8 = 248;
    let mut text = String::with_capacity(N);
    while text.len() < N {
        let mut random = [0u8; 64];
        getrandom::fill(&mut random).map_err(|e| CatalogError::Random(e.to_string().into()))?;
        let digits = random
            .into_iter()
            .filter(|byte| *byte < END)
            .map(|byte| char::from(DIGITS[usize::from(byte % 62)]));
        text.extend(digits.take(N - text.len()));
    }
    Ok(text)
}

/// A key, as its object has it.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct StoredKey {
    pub(super) key_id: String,
    name: String,
    role: Role,
    sha256: String,
    created_at: String,
    expires_at: Option<String>,
}

impl Item for ApiKey {
    const FOLDER: &'static str = "catalog/keys";
    const WHAT: &'static str = "keys";
    const MOST: usize = 1000;
    type Stored = StoredKey;

    fn of_stored(tenant: &TenantId, stored: StoredKey) -> Result<Self, Unreadable> {
        let time = |text: &str| parse_rfc3339(text).ok_or(Unreadable("a time"));
        Ok(Self {
            key_id: stored.key_id.into(),
            tenant: tenant.clone(),
            name: stored.name.into(),
            role: Some(stored.role).filter(|role| *role != Role::PlatformAdmin).ok_or(Unreadable("a role"))?,
            created_at: time(&stored.created_at)?,
            // Rounded down: a key never lives longer than was asked for.
            expires_at: stored.expires_at.as_deref().map(time).transpose()?.map(|ms| ms.div_euclid(1000)),
            sha256: hex::decode(&stored.sha256).ok_or(Unreadable("a hash"))?,
        })
    }

    fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    fn id(&self) -> &str {
        &self.key_id
    }

    fn found_by(&self) -> &Arc<str> {
        &self.key_id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(name: &str, role: Role, expires_at: Option<i64>) -> NewKey {
        NewKey {
            name: name.to_owned(),
            role,
            expires_at,
        }
    }

    #[test]
    fn a_key_has_the_contracts_form_and_opens_only_itself() {
        let acme = TenantId::parse("acme").expect("good");
        let (stored, text) = issue(new("ci", Role::Writer, None)).expect("made");
        let (id, secret) = text.reveal().strip_prefix("slk_").and_then(|t| t.split_once('_')).expect("the form");
        assert_eq!((id.len(), secret.len(), ApiKey::id_in(text.reveal())), (16, 43, Some(id)));
        let key = ApiKey::of_stored(&acme, stored).expect("readable");
        assert!(key.verify(text.reveal()));
        let (_, other) = issue(new("ci", Role::Writer, None)).expect("made");
        let swapped = format!("slk_{id}_{}", other.reveal().rsplit('_').next().expect("a secret"));
        let changed = |at: usize| {
            let mut bytes = text.reveal().as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'a' { b'b' } else { b'a' };
            String::from_utf8(bytes).expect("ASCII")
        };
        for wrong in [
            other.reveal(),
            &swapped,
            "",
            &text.reveal()[..63],
            &changed(5),
            &changed(63),
            &format!("{} ", text.reveal()),
        ] {
            assert!(!key.verify(wrong), "{wrong}");
        }
        assert!(!format!("{key:?} {text:?}").contains(secret));
    }

    #[test]
    fn what_has_not_the_form_of_a_key_has_no_id() {
        let good = format!("slk_{}_{}", "a".repeat(16), "b".repeat(43));
        assert!(ApiKey::id_in(&good).is_some());
        for bad in [
            "",
            "slk_",
            "slk__",
            "slk_1",
            &good[1..],
            &good[..63],
            &format!("{good}x"),
            &good.replacen("slk", "SLK", 1),
            &good.replacen('a', "-", 1),
            &good.replacen('b', "_", 1),
            &good.replacen("aa", "ä", 1),
        ] {
            assert_eq!(ApiKey::id_in(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_digit_is_as_likely_as_the_others() {
        let mut counts = std::collections::HashMap::new();
        for _ in 0..2000 {
            for digit in random_text::<SECRET_LEN>().expect("drawn").chars() {
                *counts.entry(digit).or_insert(0u32) += 1;
            }
        }
        // 86,000 draws of 62 digits: 1,387 each; the standard deviation is 37, eight of them are 300.
        assert!(counts.len() == 62 && counts.values().all(|n| n.abs_diff(1387) < 300), "{counts:?}");
    }

    #[test]
    fn names_roles_and_times_are_checked() {
        let now = now_ms() / 1000;
        for (bad, at) in [
            (new("", Role::Writer, None), "name"),
            (new("a\nb", Role::Writer, None), "name"),
            (new(&"x".repeat(201), Role::Writer, None), "name"),
            (new(&"ä".repeat(101), Role::Writer, None), "name"),
            (new("x", Role::PlatformAdmin, None), "role"),
            (new("x", Role::Writer, Some(now - 1)), "expires_at"),
            (new("x", Role::Writer, Some(i64::MIN)), "expires_at"),
        ] {
            assert!(matches!(issue(bad), Err(CatalogError::Invalid { field, .. }) if field == at), "{at}");
        }
        let (stored, _) = issue(new("x", Role::Admin, Some(now + 60))).expect("made");
        let key = ApiKey::of_stored(&TenantId::parse("a").expect("good"), stored).expect("readable");
        assert_eq!((key.expires_at, key.is_over(now + 59), key.is_over(now + 60)), (Some(now + 60), false, true));
    }
}
