//! Which entries a reader asks for. Made from query parameters by `http`, evaluated by stores and by the live feed;
//! [`Filter::matches`] is the definition that every faster evaluation must agree with.

use super::{
    entry::{EntryRef, Field, Severity},
    leaves::for_each_leaf,
    mask::Mask,
    words::for_each_word,
};
use crate::search::Search;
use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};
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
    /// What is searched for.
    pub search: Option<Search>,
    /// Who asks sees entries through this mask: every condition is about the masked record, and so is what a store gives of the
    /// matches. It is no condition itself. Set it by [`Filter::through`].
    pub mask: Option<Arc<Mask>>,
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
        !self.reads_text()
            && *self
                == Self {
                    mask: self.mask.clone(),
                    ..Self::default()
                }
    }

    /// The same conditions, on what this mask shows.
    pub fn through(mut self, mask: Option<Arc<Mask>>) -> Self {
        if let Some(search) = &mut self.search {
            search.see_through(mask.as_ref());
        }
        self.mask = mask;
        self
    }

    /// Whether the entry is one that the reader asks for.
    pub fn matches(&self, entry: &EntryRef<'_>, around: Surroundings<'_>) -> bool {
        match &self.mask {
            Some(mask) if self.reads_text() => {
                self.in_bounds(entry, around) && {
                    let (record, actor) = (mask.record(entry), mask.actor(around.actor));
                    let shown = record.as_deref().map_or(*entry, EntryRef::first_of);
                    self.in_text(&shown, Surroundings { actor: &actor, ..around })
                }
            }
            _ => self.matches_shown(entry, around),
        }
    }

    /// The same of an entry that is already as the mask shows it.
    pub fn matches_shown(&self, entry: &EntryRef<'_>, around: Surroundings<'_>) -> bool {
        self.in_bounds(entry, around) && self.in_text(entry, around)
    }

    /// Whether a condition is about something that a mask may hide.
    pub fn reads_text(&self) -> bool {
        let Self {
            from: _,
            to: _,
            timestamps: _,
            ids: _,
            severity: _,
            min_sequence: _,
            max_sequence: _,
            mask: _,
            user_id,
            email,
            session_id,
            resource_id,
            request_id,
            actor,
            action,
            resource_type,
            ip_address,
            user_agent,
            metadata,
            search,
        } = self;
        let texts = [user_id, email, session_id, resource_id, request_id, actor, action, resource_type];
        texts.into_iter().any(|list| !list.is_empty()) || !(ip_address.is_empty() && user_agent.is_empty() && metadata.is_empty()) || search.is_some()
    }

    /// The conditions on what no mask hides, which are the cheap ones.
    fn in_bounds(&self, entry: &EntryRef<'_>, around: Surroundings<'_>) -> bool {
        let timestamp = entry.timestamp();
        self.from.is_none_or(|from| timestamp >= from)
            && self.to.is_none_or(|to| timestamp < to)
            && self.min_sequence.is_none_or(|min| around.sequence >= min)
            && self.max_sequence.is_none_or(|max| around.sequence <= max)
            && (self.timestamps.is_empty() || self.timestamps.iter().any(|(from, to)| (*from..*to).contains(&timestamp)))
            && (self.severity.is_empty() || self.severity.contains(&entry.severity()))
            && (self.ids.is_empty() || self.ids.contains(&entry.id()))
    }

    /// The others; those that walk over text last.
    fn in_text(&self, entry: &EntryRef<'_>, around: Surroundings<'_>) -> bool {
        let text_is = |field, wanted: &[String]| wanted.is_empty() || entry.text(field).is_some_and(|text| wanted.iter().any(|w| w == text));
        (self.actor.is_empty() || self.actor.iter().any(|a| a == around.actor))
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
            && self.search.as_ref().is_none_or(|search| search.matches(entry, around))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        entry::{Field, NewEntry},
        pack::PackBuilder,
    };

    fn sample() -> PackBuilder {
        let mut fields: [Option<&[u8]>; Field::COUNT] = [None; Field::COUNT];
        for (field, bytes) in [
            (Field::Action, &b"Login"[..]),
            (Field::ResourceType, "STRASSE Ünï".as_bytes()),
            (Field::ResourceId, b"r-1"),
            (Field::UserId, b"ann"),
            (Field::SessionId, b"s"),
            (Field::RequestId, b"q"),
            (Field::Email, b"ann@example.com"),
            (Field::IpAddress, &[10, 1, 2, 3]),
            (Field::UserAgent, b"Mozilla/5.0 (X11; Linux)"),
            (
                Field::Metadata,
                br#"{"a":{"b":[1.50,"x\u0041",null]},"k.d":true,"n":12345678901234567890,"\u00e9":"u"}"#,
            ),
        ] {
            fields[field as usize] = Some(bytes);
        }
        let mut builder = PackBuilder::default();
        builder.push(&NewEntry {
            id: Uuid::from_u128(7),
            client_id: true,
            hash: 0,
            timestamp: 1_000,
            severity: Severity::Error,
            fields,
        });
        builder
    }

    fn holds(change: impl FnOnce(&mut Filter)) -> bool {
        let mut filter = Filter::default();
        change(&mut filter);
        assert!(!filter.is_empty());
        let builder = sample();
        filter.matches(&builder.entry(0), Surroundings { sequence: 5, actor: "svc" })
    }

    fn list(values: &[&str]) -> Vec<String> {
        values.iter().map(|v| (*v).to_owned()).collect()
    }

    fn leaf(path: &[&str], value: &str) -> LeafFilter {
        LeafFilter {
            path: list(path),
            values: list(&["other", value]),
        }
    }

    #[test]
    fn no_condition_matches_everything() {
        let builder = sample();
        let around = Surroundings { sequence: 1, actor: "" };
        assert!(Filter::default().is_empty() && Filter::default().matches(&builder.entry(0), around));
    }

    #[test]
    fn times_and_numbers_are_ranges() {
        assert!(holds(|f| f.from = Some(1_000)) && !holds(|f| f.from = Some(1_001)));
        assert!(holds(|f| f.to = Some(1_001)) && !holds(|f| f.to = Some(1_000)));
        assert!(holds(|f| f.timestamps = vec![(0, 1), (1_000, 1_001)]) && !holds(|f| f.timestamps = vec![(0, 1_000), (1_001, 2_000)]));
        assert!(holds(|f| f.min_sequence = Some(5)) && !holds(|f| f.min_sequence = Some(6)));
        assert!(holds(|f| f.max_sequence = Some(5)) && !holds(|f| f.max_sequence = Some(4)));
    }

    #[test]
    fn names_match_exactly_and_one_of_several_is_enough() {
        type Set = fn(&mut Filter, Vec<String>);
        let cases: [(&str, Set); 6] = [
            ("ann", |f, v| f.user_id = v),
            ("ann@example.com", |f, v| f.email = v),
            ("s", |f, v| f.session_id = v),
            ("r-1", |f, v| f.resource_id = v),
            ("q", |f, v| f.request_id = v),
            ("svc", |f, v| f.actor = v),
        ];
        for (good, set) in cases {
            assert!(holds(|f| set(f, list(&["no", good]))), "{good}");
            assert!(!holds(|f| set(f, list(&[&good.to_uppercase(), &good[1..]]))), "{good}");
        }
        assert!(holds(|f| f.ids = vec![Uuid::nil(), Uuid::from_u128(7)]) && !holds(|f| f.ids = vec![Uuid::nil()]));
        assert!(holds(|f| f.severity = vec![Severity::Info, Severity::Error]) && !holds(|f| f.severity = vec![Severity::Info]));
    }

    #[test]
    fn action_and_resource_type_match_in_any_case() {
        assert!(holds(|f| f.action = list(&["login"])) && !holds(|f| f.action = list(&["logi"])));
        assert!(holds(|f| f.resource_type = list(&["strasse ünï"])) && !holds(|f| f.resource_type = list(&["strasse uni"])));
    }

    #[test]
    fn conditions_are_anded() {
        assert!(holds(|f| (f.action, f.user_id) = (list(&["login"]), list(&["ann"]))));
        assert!(!holds(|f| (f.action, f.user_id) = (list(&["login"]), list(&["bob"]))));
        assert!(!holds(|f| f.metadata = vec![leaf(&["a", "b"], "1.50"), leaf(&["k.d"], "false")]));
    }

    #[test]
    fn addresses_match_by_prefix_and_mapped_ones_are_ipv4() {
        for good in [
            "10.1.2.3",
            "10.0.0.0/8",
            "10.1.2.2/31",
            "0.0.0.0/0",
            "::ffff:10.1.2.3",
            "::ffff:10.0.0.0/104",
            "::ffff:0:0/96",
            "10.255.255.255/8",
        ] {
            assert!(holds(|f| f.ip_address = vec![IpRange::parse(good).expect(good)]), "{good}");
        }
        for bad in ["10.1.2.4", "10.1.2.0/31", "11.0.0.0/8", "::/0", "::ffff:0:0/95", "a01:203::"] {
            assert!(!holds(|f| f.ip_address = vec![IpRange::parse(bad).expect(bad)]), "{bad}");
        }
        for none in [
            "",
            "10.1",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/8/8",
            "x/8",
            "10.0.0.0/256",
        ] {
            assert_eq!(IpRange::parse(none), None, "{none}");
        }
        let v6 = IpRange::parse("2001:db8::/32").expect("a range");
        assert!(v6.contains("2001:db8:ffff::1".parse().unwrap()) && !v6.contains("2001:db9::1".parse().unwrap()));
        assert!(!v6.contains("32.1.13.184".parse().unwrap()));
    }

    #[test]
    fn all_words_of_a_user_agent_must_be_there() {
        let words = |sets: &[&[&str]]| sets.iter().map(|s| list(s)).collect::<Vec<_>>();
        assert!(holds(|f| f.user_agent = words(&[&["chrome"], &["linux", "mozilla", "5"]])));
        assert!(!holds(|f| f.user_agent = words(&[&["linux", "chrome"], &["lin"]])));
    }

    #[test]
    fn leaves_match_by_path_and_exact_text() {
        for (path, value) in [
            (&["a", "b"][..], "1.50"),
            (&["a", "b"], "xA"),
            (&["a", "b"], "null"),
            (&["k.d"], "true"),
            (&["n"], "12345678901234567890"),
            (&["é"], "u"),
        ] {
            assert!(holds(|f| f.metadata = vec![leaf(path, value)]), "{path:?} {value}");
        }
        for (path, value) in [
            (&["a", "b"][..], "1.5"),
            (&["a", "b"], "\"xA\""),
            (&["a"], "1.50"),
            (&["b"], "1.50"),
            (&["k", "d"], "true"),
            (&["n"], "12345678901234567000"),
            (&[], "u"),
        ] {
            assert!(!holds(|f| f.metadata = vec![leaf(path, value)]), "{path:?} {value}");
        }
    }
}
