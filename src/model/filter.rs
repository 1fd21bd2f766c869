//! Which entries a reader asks for. Made from query parameters by `http`, evaluated by stores and by the live feed;
//! [`Filter::matches`] is the definition that every faster evaluation must agree with.

use super::{
    entry::{EntryRef, Field, Severity},
    leaves::for_each_leaf,
    words::for_each_word,
};
use std::net::{IpAddr, Ipv6Addr};
use uuid::Uuid;

/// An address range: the first `prefix` bits of `addr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpRange {
    /// Any address of the range; IPv4-mapped addresses have become IPv4.
    pub addr: IpAddr,
    /// Number of leading bits that count: at most 32 for IPv4, 128 for IPv6. An IPv4 range never holds an IPv6 address.
    pub prefix: u8,
}

/// `metadata.a.b=x`: a leaf of an object field by its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafFilter {
    /// Keys from the root of `metadata`; array levels are not named, any element matches.
    pub path: Vec<String>,
    /// Exact texts, ORed (strings unquoted and unescaped, numbers as sent, `true`, `false`, `null`).
    pub values: Vec<String>,
}

/// All conditions, ANDed; the values of one condition are ORed; an empty list is no condition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Smallest event time, milliseconds, inclusive.
    pub from: Option<i64>,
    /// Largest event time, milliseconds, exclusive.
    pub to: Option<i64>,
    /// Half-open ranges of event time of the `timestamp` parameter (an instant is one millisecond long).
    pub timestamps: Vec<(i64, i64)>,
    /// Ids.
    pub ids: Vec<Uuid>,
    /// Exact.
    pub user_id: Vec<String>,
    /// Exact.
    pub email: Vec<String>,
    /// Exact.
    pub session_id: Vec<String>,
    /// Exact.
    pub resource_id: Vec<String>,
    /// Exact.
    pub request_id: Vec<String>,
    /// Exact.
    pub actor: Vec<String>,
    /// Any case: values are lower-cased here (`str::to_lowercase`).
    pub action: Vec<String>,
    /// Any case: values are lower-cased here.
    pub resource_type: Vec<String>,
    /// Severities.
    pub severity: Vec<Severity>,
    /// Address ranges.
    pub ip_address: Vec<IpRange>,
    /// Each value is the list of its words (`model::words`), all of which must be among the words of the user agent.
    pub user_agent: Vec<Vec<String>>,
    /// Smallest sequence, inclusive.
    pub min_sequence: Option<u64>,
    /// Largest sequence, inclusive.
    pub max_sequence: Option<u64>,
    /// Leaves of `metadata`, ANDed between paths.
    pub metadata: Vec<LeafFilter>,
}

/// What a filter looks at besides the record.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// The entry's number.
    pub sequence: u64,
    /// The subject that wrote it.
    pub actor: &'a str,
}

impl IpRange {
    /// Reads an address (a range of one) or a CIDR (`10.0.0.0/8`). An IPv4-mapped range becomes an IPv4 one. Bits
    /// behind the prefix are ignored.
    pub fn parse(text: &str) -> Option<Self> {
        let (addr, prefix) = match text.split_once('/') {
            Some((addr, prefix)) => {
                let plain = !prefix.is_empty() && prefix.len() <= 3 && prefix.bytes().all(|b| b.is_ascii_digit());
                (addr, Some(prefix.parse::<u8>().ok().filter(|_| plain)?))
            }
            None => (text, None),
        };
        let addr: IpAddr = addr.parse().ok()?;
        let bits = if addr.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(bits);
        (prefix <= bits).then(|| Self { addr, prefix }.canonical())
    }

    /// Whether the range holds `ip`, an address in canonical form.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let range = self.canonical();
        match (range.addr, ip) {
            (IpAddr::V4(a), IpAddr::V4(b)) => same_bits(u128::from(a.to_bits()) << 96, u128::from(b.to_bits()) << 96, range.prefix),
            (IpAddr::V6(a), IpAddr::V6(b)) => same_bits(a.to_bits(), b.to_bits(), range.prefix),
            _ => false,
        }
    }

    pub(crate) fn canonical(self) -> Self {
        match self.addr {
            IpAddr::V6(addr) if self.prefix >= 96 => match Ipv6Addr::to_ipv4_mapped(&addr) {
                Some(v4) => Self {
                    addr: v4.into(),
                    prefix: self.prefix - 96,
                },
                None => self,
            },
            _ => self,
        }
    }
}

fn same_bits(a: u128, b: u128, prefix: u8) -> bool {
    // A shift by the whole width is not defined; it would mean that no bit counts.
    (a ^ b).checked_shr(128 - u32::from(prefix.min(128))).unwrap_or(0) == 0
}

impl Filter {
    /// Whether there is no condition.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the entry is one that the reader asks for.
    pub fn matches(&self, entry: &EntryRef<'_>, around: Surroundings<'_>) -> bool {
        let timestamp = entry.timestamp();
        let text_is = |field, wanted: &[String]| wanted.is_empty() || entry.text(field).is_some_and(|text| wanted.iter().any(|w| w == text));
        // The cheap conditions first; the two that walk over text last.
        self.from.is_none_or(|from| timestamp >= from)
            && self.to.is_none_or(|to| timestamp < to)
            && self.min_sequence.is_none_or(|min| around.sequence >= min)
            && self.max_sequence.is_none_or(|max| around.sequence <= max)
            && (self.timestamps.is_empty() || self.timestamps.iter().any(|(from, to)| (*from..*to).contains(&timestamp)))
            && (self.severity.is_empty() || self.severity.contains(&entry.severity()))
            && (self.ids.is_empty() || self.ids.contains(&entry.id()))
            && (self.actor.is_empty() || self.actor.iter().any(|a| a == around.actor))
            && text_is(Field::UserId, &self.user_id)
            && text_is(Field::Email, &self.email)
            && text_is(Field::SessionId, &self.session_id)
            && text_is(Field::ResourceId, &self.resource_id)
            && text_is(Field::RequestId, &self.request_id)
            && any_case(entry.text(Field::Action), &self.action)
            && any_case(entry.text(Field::ResourceType), &self.resource_type)
            && (self.ip_address.is_empty() || entry.ip().is_some_and(|ip| self.ip_address.iter().any(|range| range.contains(ip))))
            && (self.user_agent.is_empty() || has_words(entry.text(Field::UserAgent), &self.user_agent))
            && self.metadata.iter().all(|leaf| leaf.matches(entry.text(Field::Metadata)))
    }
}

impl LeafFilter {
    /// Whether a leaf at the path has one of the texts.
    pub(crate) fn matches(&self, metadata: Option<&str>) -> bool {
        let mut found = false;
        for_each_leaf(metadata.unwrap_or("{}"), &mut |path, text| {
            found |= path == self.path && self.values.iter().any(|v| *v == text);
        });
        found
    }
}

/// Whether `text` in lower case is one of `wanted`, which are in lower case.
pub(crate) fn any_case(text: Option<&str>, wanted: &[String]) -> bool {
    if wanted.is_empty() {
        return true;
    }
    let Some(text) = text else { return false };
    if text.is_ascii() {
        return wanted.iter().any(|w| w.eq_ignore_ascii_case(text));
    }
    let lower = text.to_lowercase();
    wanted.contains(&lower)
}

/// Whether all words of one of `wanted` are among the words of `text`.
pub(crate) fn has_words(text: Option<&str>, wanted: &[Vec<String>]) -> bool {
    let Some(text) = text else { return false };
    let has_word = |word: &String| {
        let mut found = false;
        for_each_word(text, &mut |w| found |= w == word);
        found
    };
    wanted.iter().any(|words| words.iter().all(has_word))
}
