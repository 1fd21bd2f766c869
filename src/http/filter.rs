//! Query parameters become a [`Filter`] and a page. Every bad value is named, all of them at once; none is echoed.

use super::{
    error::{FieldError, Problem},
    query::Query,
};
use crate::{
    model::{
        conditions::{self, Refused, number},
        filter::Filter,
    },
    search::{self, Search},
    sinks::Sort,
};

/// How deep `page` reaches; beyond it a cursor is needed.
const DEEPEST: usize = 10_000;
const LARGEST_PAGE: usize = 1_000;
const DEFAULT_PAGE: usize = 50;

/// Which page of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// In which order.
    pub sort: Sort,
    /// From 1.
    pub page: usize,
    /// 1–1000.
    pub page_size: usize,
    /// How many to pass over.
    pub skip: usize,
    /// Whether to count.
    pub total: Total,
}

/// Which number of matches is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Total {
    /// All of them where that is cheap, else a lower bound.
    Cheap,
    /// All of them.
    Exact,
    /// None.
    No,
}

type Errors = Vec<FieldError>;

/// The filter of a query whose names were checked. Other parameters are passed over.
pub fn filter(query: &Query) -> Result<Filter, Problem> {
    let (mut filter, mut errors) = (Filter::default(), Errors::new());
    for (name, value) in query.pairs() {
        if let Err((code, message)) = add(&mut filter, name, value) {
            errors.push(FieldError::new(name, code, message));
        }
    }
    if errors.is_empty() { Ok(filter) } else { Err(Problem::parameters(errors)) }
}

/// Both results, or the errors of both.
pub fn both<A, B>(a: Result<A, Problem>, b: Result<B, Problem>) -> Result<(A, B), Problem> {
    match (a, b) {
        (Ok(a), Ok(b)) => Ok((a, b)),
        (Err(a), Err(b)) => Err(a.and(b)),
        (Err(one), Ok(_)) | (Ok(_), Err(one)) => Err(one),
    }
}

fn add(filter: &mut Filter, name: &str, value: &str) -> Result<(), Refused> {
    if name == "search" {
        return search(filter, value);
    }
    conditions::add(filter, name, value).map(drop)
}

/// One more search; several are OR.
fn search(filter: &mut Filter, text: &str) -> Result<(), Refused> {
    let new = search::parse(text).map_err(|e| (e.code, e.to_string()))?;
    let all = match filter.search.take() {
        Some(before) => Search::any(vec![before, new]),
        None => new,
    };
    if all.terms() > search::MAX_TERMS {
        return Err(("invalid_search", format!("all searches together have more than {} terms", search::MAX_TERMS)));
    }
    filter.search = Some(all);
    Ok(())
}

/// The order that a query asks for.
pub fn sort(query: &Query) -> Result<Sort, FieldError> {
    let refused = |message| Err(FieldError::new("sort", "invalid_sort", message));
    match query.get("sort") {
        None | Some("timestamp:desc") => Ok(Sort::TimestampDesc),
        Some("timestamp:asc") => Ok(Sort::TimestampAsc),
        Some("sequence:desc") => Ok(Sort::SequenceDesc),
        Some("sequence:asc") => Ok(Sort::SequenceAsc),
        Some("relevance") => refused("`sort=relevance` needs a search store that ranks; sort by timestamp or sequence"),
        Some(_) => refused("`sort` is one of timestamp:desc, timestamp:asc, sequence:desc, sequence:asc"),
    }
}

/// The page of a list query whose names were checked.
pub fn page(query: &Query) -> Result<Page, Problem> {
    page_within(query, DEEPEST)
}

/// As [`page`], of a list that has no cursor and needs none.
pub fn page_of_any_depth(query: &Query) -> Result<Page, Problem> {
    page_within(query, usize::MAX)
}

fn page_within(query: &Query, deepest: usize) -> Result<Page, Problem> {
    let mut errors = Errors::new();
    let mut count_of = |names: &[&'static str], least: usize, most: usize, default: usize| {
        let Some((name, value)) = query.any_of(names) else { return default };
        match number::<usize>(name, value) {
            Ok(n) if (least..=most).contains(&n) => n,
            _ if most == usize::MAX => {
                errors.push(FieldError::new(name, "invalid_number", format!("`{name}` is a whole number from {least} on")));
                default
            }
            _ => {
                errors.push(FieldError::new(
                    name,
                    "invalid_number",
                    format!("`{name}` is a whole number from {least} to {most}"),
                ));
                default
            }
        }
    };
    let page_size = count_of(&["page_size", "size", "limit"], 1, LARGEST_PAGE, DEFAULT_PAGE);
    let page = count_of(&["page"], 1, usize::MAX, 1);
    let skip = count_of(&["skip"], 0, usize::MAX, 0);
    let sort = sort(query).unwrap_or_else(|error| {
        errors.push(error);
        Sort::default()
    });
    let total = match query.get("total") {
        None | Some("true") => Total::Cheap,
        Some("exact") => Total::Exact,
        Some("false") => Total::No,
        Some(_) => {
            errors.push(FieldError::new("total", "invalid_value", "`total` is one of true, false, exact"));
            Total::No
        }
    };
    let skips = query.get("skip").is_some();
    if skips && query.get("page").is_some() {
        errors.push(FieldError::new("skip", "conflict", "give `page` or `skip`, not both"));
    }
    let reach = if skips {
        skip.saturating_add(page_size)
    } else {
        page.saturating_mul(page_size)
    };
    if reach > deepest {
        let (field, what) = if skips { ("skip", "skip + page_size") } else { ("page", "page × page_size") };
        errors.push(FieldError::new(
            field,
            "too_deep",
            format!("{what} is at most 10,000; use `cursor` to go on from the last answer's `next_cursor`, or narrow the filter"),
        ));
    }
    if !errors.is_empty() {
        return Err(Problem::parameters(errors));
    }
    Ok(Page {
        sort,
        page: if skips { skip / page_size + 1 } else { page },
        page_size,
        skip: if skips { skip } else { (page - 1).saturating_mul(page_size) },
        total,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{conditions::path, entry::Severity, filter::IpRange};
    use uuid::Uuid;

    const DAY_MS: i64 = 86_400_000;

    fn query(raw: &str) -> Query {
        Query::parse(Some(raw)).expect("well formed")
    }

    fn good(raw: &str) -> Filter {
        filter(&query(raw)).unwrap_or_else(|p| panic!("{raw}: {}", p.detail()))
    }

    fn refused(raw: &str) -> String {
        let problem = filter(&query(raw)).err().or_else(|| page(&query(raw)).err()).unwrap_or_else(|| panic!("{raw}"));
        assert_eq!(problem.code().row().0, 422, "{raw}");
        problem.detail().to_owned()
    }

    #[test]
    fn times_are_instants_or_dates_and_repeats_widen() {
        let day = 1_704_067_200_000;
        assert_eq!(good("from=2024-01-01").from, Some(day));
        assert_eq!(good("start_time=2024-01-01T01:00:00%2B01:00").from, Some(day));
        assert_eq!(good("start_date=2024-01-01T01:00:00+01:00").from, Some(day), "an unescaped plus");
        assert_eq!(good("to=2024-01-02&end_date=2024-01-03").to, Some(day + 2 * DAY_MS));
        assert_eq!(good("timestamp=2024-01-01").timestamps, [(day, day + DAY_MS)]);
        assert_eq!(good("timestamp=2024-01-01T00:00:00.5Z").timestamps, [(day + 500, day + 501)]);
        for bad in [
            "from=yesterday",
            "to=2024-13-01",
            "end_time=2024-01-01T00:00:00",
            "timestamp=",
            "from=1700000000",
        ] {
            assert!(refused(bad).contains("RFC 3339 with a zone"), "{bad}");
        }
    }

    #[test]
    fn repeats_are_or_and_a_comma_too_for_three_names() {
        let f = good("action=LOGIN,Create&action=x&severity=error,info&resource_type=A,b&user_id=a,b&user_id=c");
        assert_eq!(f.action, ["login", "create", "x"]);
        assert_eq!(f.severity, [Severity::Error, Severity::Info]);
        assert_eq!(f.resource_type, ["a", "b"]);
        assert_eq!(f.user_id, ["a,b", "c"]);
        for bad in ["severity=", "severity=LOUD", "action=", "action=a,,b", "resource_type="] {
            refused(bad);
        }
    }

    #[test]
    fn addresses_are_single_ranges_or_mapped() {
        for (text, addr, prefix) in [
            ("10.1.2.3", "10.1.2.3", 32),
            ("10.0.0.0/8", "10.0.0.0", 8),
            ("0.0.0.0/0", "0.0.0.0", 0),
            ("2001:db8::/32", "2001:db8::", 32),
            ("::1", "::1", 128),
            ("::ffff:1.2.3.4", "1.2.3.4", 32),
            ("::ffff:10.0.0.0/104", "10.0.0.0", 8),
            ("::/0", "::", 0),
        ] {
            let addr = addr.parse().expect("an address");
            assert_eq!(IpRange::parse(text), Some(IpRange { addr, prefix }), "{text}");
        }
        for bad in [
            "",
            "10.0.0",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/8/8",
            "host",
            "10.0.0.0/0008",
        ] {
            assert_eq!(IpRange::parse(bad), None, "{bad}");
            refused(&format!("ip_address={bad}"));
        }
    }

    #[test]
    fn metadata_paths_split_at_dots_that_are_not_escaped() {
        for (key, want) in [
            ("a", vec!["a"]),
            ("a.b", vec!["a", "b"]),
            ("a\\.b.c", vec!["a.b", "c"]),
            ("a\\b", vec!["a\\b"]),
            ("a..b", vec!["a", "", "b"]),
        ] {
            assert_eq!(path(key), want, "{key}");
        }
        let f = good("metadata.a.b=1&metadata.a.b=2&metadata.c=true");
        assert_eq!(f.metadata.len(), 2);
        assert_eq!(f.metadata[0].values, ["1", "2"]);
        assert!(filter(&query(&format!("metadata.a={}", "x".repeat(512)))).is_ok());
        assert!(refused(&format!("metadata.a={}", "x".repeat(513))).contains("512"));
    }

    #[test]
    fn ids_numbers_and_words_are_checked() {
        assert_eq!(
            good("id=0190A3B4-0000-7000-8000-000000000001").ids,
            [Uuid::from_u128(0x0190_a3b4_0000_7000_8000_0000_0000_0001)]
        );
        assert_eq!(good("min_sequence=5&max_sequence=7&min_sequence=3").min_sequence, Some(3));
        assert_eq!(good("user_agent=Mozilla/5.0").user_agent, [["mozilla", "5", "0"]]);
        for bad in [
            "id=1",
            "min_sequence=-1",
            "min_sequence=+1",
            "max_sequence=1.5",
            "max_sequence=99999999999999999999",
            "user_agent=--",
        ] {
            refused(bad);
        }
    }

    #[test]
    fn all_bad_values_are_named_at_once_and_none_is_echoed() {
        let problem = filter(&query("from=SECRET&id=SECRET&severity=SECRET")).expect_err("bad");
        let text = String::from_utf8(problem.render("r")).expect("text");
        assert!(!text.contains("SECRET"));
        for name in ["from", "id", "severity"] {
            assert!(text.contains(&format!("\"field\":\"{name}\"")), "{text}");
        }
    }

    #[test]
    fn pages_have_bounds_and_aliases() {
        let page_of = |raw: &str| page(&query(raw)).unwrap_or_else(|p| panic!("{raw}: {}", p.detail()));
        let default = page_of("");
        assert_eq!(
            (default.page, default.page_size, default.skip, default.total, default.sort),
            (1, 50, 0, Total::Cheap, Sort::TimestampDesc)
        );
        assert_eq!(page_of("page=3&size=20").skip, 40);
        assert_eq!(page_of("page=10&limit=1000").skip, 9000);
        assert_eq!((page_of("skip=100&limit=50").page, page_of("skip=100&limit=50").skip), (3, 100));
        assert_eq!(page_of("sort=sequence:asc&total=false").sort, Sort::SequenceAsc);
        assert_eq!(page_of("total=false").total, Total::No);
        for bad in [
            "page=0",
            "page_size=0",
            "page_size=1001",
            "page=x",
            "page=",
            "skip=-1",
            "sort=timestamp",
            "sort=relevance",
            "total=maybe",
            "page=1&skip=0",
            "page=99999999999999999999",
        ] {
            refused(bad);
        }
        for deep in ["page=201", "page=11&page_size=1000", "skip=9951", "page=18446744073709551615&page_size=1000"] {
            assert!(refused(deep).contains("cursor"), "{deep}");
        }
    }
}
