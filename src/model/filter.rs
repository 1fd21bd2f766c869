//! Which entries a reader asks for. Made from query parameters by `http`, evaluated by stores and by the live feed;
//! [`Filter::matches`] is the definition that every faster evaluation must agree with.

use super::entry::Severity;
use std::net::IpAddr;
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
