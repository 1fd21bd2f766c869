//! Realistic audit entries: users who log in, work in sessions, change things, and now and then fail or do harm.
//!
//! Entries are 700–900 bytes of JSON on average, with ids made here, so that whoever sends them can compare what it sent
//! with what it reads back. The same seed gives the same people and the same story, but ids are always new.

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use std::io::Write;
use uuid::Uuid;

const FIRST: [&str; 16] = [
    "amara", "bence", "chloe", "dmitri", "elif", "farid", "greta", "hiro", "ines", "jamal", "kaja", "liam", "mei", "noor", "otto", "priya",
];
const LAST: [&str; 12] = [
    "adler", "bianchi", "costa", "diallo", "eriksen", "fujita", "garcia", "haddad", "ivanova", "jensen", "kowalski", "lopez",
];
const AGENTS: [&str; 5] = [
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 14_6) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Safari/605.1.15",
    "Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0",
    "okhttp/5.1.0",
    "terraform/1.13.4 (+https://www.terraform.io)",
];
const CITIES: [&str; 6] = ["Lisbon", "Osaka", "Nairobi", "Denver", "Tallinn", "Montréal"];
const PLANS: [&str; 4] = ["free", "team", "business", "enterprise"];
const ROLES: [&str; 4] = ["viewer", "editor", "billing", "owner"];

struct Person {
    name: String,
    email: String,
    address: String,
    agent: &'static str,
    session: Option<Uuid>,
}

/// The people of one tenant and what they do.
pub struct Generator {
    rng: StdRng,
    people: Vec<Person>,
}

/// One made entry.
pub struct Made {
    /// Its id.
    pub id: Uuid,
    /// Bytes appended to the output.
    pub len: usize,
}

impl Generator {
    /// The people of tenant number `seed`.
    pub fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let people = (0..24)
            .map(|n| {
                let (first, last) = (FIRST.choose(&mut rng).expect("not empty"), LAST.choose(&mut rng).expect("not empty"));
                Person {
                    name: format!("{first}.{last}.{n}"),
                    email: format!("{first}.{last}{n}@example.com"),
                    address: if n % 8 == 7 {
                        format!("2001:db8:{seed:x}::{n:x}")
                    } else {
                        format!("10.{}.{}.{}", seed % 250, rng.random_range(0..4), rng.random_range(1..255))
                    },
                    agent: AGENTS.choose(&mut rng).expect("not empty"),
                    session: None,
                }
            })
            .collect();
        Self { rng, people }
    }

    /// Appends one entry as a JSON object to `out`.
    pub fn write(&mut self, out: &mut Vec<u8>) -> Made {
        let id = Uuid::new_v4();
        let start = out.len();
        let rng = &mut self.rng;
        let index = rng.random_range(0..self.people.len());
        let dice = rng.random_range(0..100);
        let person = &mut self.people[index];
        let fresh = person.session.is_none();
        let session = *person.session.get_or_insert_with(Uuid::new_v4);
        let object = rng.random_range(1..5000);
        let request = Uuid::new_v4();
        let story = match (fresh, dice) {
            (true, _) => Story::login(&person.name),
            (_, 0..4) => {
                person.session = None;
                Story::logout(&person.name)
            }
            (_, 4..9) => Story::login_failed(&person.name, rng.random_range(1..6)),
            (_, 9..11) => Story::denied(&person.name, object),
            (_, 11..12) => Story::deleted(&person.name, object),
            (_, 12..20) => Story::role_changed(
                &person.name,
                object,
                ROLES.choose(rng).expect("not empty"),
                ROLES.choose(rng).expect("not empty"),
            ),
            (_, 20..30) => Story::plan_changed(
                &person.name,
                object,
                PLANS.choose(rng).expect("not empty"),
                PLANS.choose(rng).expect("not empty"),
            ),
            (_, 30..60) => Story::updated(&person.name, object, rng.random_range(1..90_000), rng.random_range(1..90_000)),
            (_, 60..70) => Story::exported(&person.name, object, rng.random_range(10..20_000)),
            _ => Story::viewed(&person.name, object),
        };
        let city = CITIES.choose(rng).expect("not empty");
        let (latency, build) = (rng.random_range(3..900), rng.random_range(1200..1300));
        write!(
            out,
            r#"{{"id":"{id}","action":"{}","resource_type":"{}","resource_id":"{}","user_id":"{}","email":"{}","session_id":"{session}","request_id":"{request}","ip_address":"{}","user_agent":"{}","severity":"{}","message":"{}","before_state":{},"after_state":{},"metadata":{{"city":"{city}","latency_ms":{latency},"build":"2026.{build}","mfa":{},"tags":["web","eu-{}"],"trace":{{"span":"{:016x}","sampled":{}}}}}}}"#,
            story.action,
            story.resource_type,
            story.resource_id,
            person.name,
            person.email,
            person.address,
            person.agent,
            story.severity,
            story.message,
            story.before,
            story.after,
            dice % 3 != 0,
            dice % 4,
            request.as_u64_pair().0,
            dice % 10 == 0,
        )
        .expect("writing to memory does not fail");
        Made { id, len: out.len() - start }
    }
}

/// What happened, apart from who did it.
struct Story {
    action: &'static str,
    resource_type: &'static str,
    resource_id: String,
    severity: &'static str,
    message: String,
    before: String,
    after: String,
}

impl Story {
    fn plain(action: &'static str, resource_type: &'static str, resource_id: String, severity: &'static str, message: String) -> Self {
        Self {
            action,
            resource_type,
            resource_id,
            severity,
            message,
            before: "null".into(),
            after: "null".into(),
        }
    }

    fn login(who: &str) -> Self {
        Self::plain(
            "LOGIN",
            "session",
            format!("session-{who}"),
            "INFO",
            format!("{who} signed in with a password and a second factor"),
        )
    }

    fn logout(who: &str) -> Self {
        Self::plain("LOGOUT", "session", format!("session-{who}"), "INFO", format!("{who} signed out"))
    }

    fn login_failed(who: &str, tries: u32) -> Self {
        Self::plain(
            "LOGIN_FAILED",
            "session",
            format!("session-{who}"),
            "WARNING",
            format!("login failed for {who}: wrong password, attempt {tries} of 5"),
        )
    }

    fn denied(who: &str, object: u32) -> Self {
        Self::plain(
            "ACCESS_DENIED",
            "secret",
            format!("vault/{object}"),
            "ERROR",
            format!("{who} may not read secret vault/{object}: the role lacks secrets:read"),
        )
    }

    fn viewed(who: &str, object: u32) -> Self {
        Self::plain(
            "VIEW",
            "document",
            format!("doc-{object}"),
            "INFO",
            format!("{who} opened document doc-{object} in the browser"),
        )
    }

    fn exported(who: &str, object: u32, rows: u32) -> Self {
        let mut story = Self::plain(
            "EXPORT",
            "report",
            format!("report-{object}"),
            "WARNING",
            format!("{who} exported {rows} rows of report-{object} as CSV"),
        );
        story.after = format!(r#"{{"rows":{rows},"format":"csv","destination":"download"}}"#);
        story
    }

    fn deleted(who: &str, object: u32) -> Self {
        let mut story = Self::plain(
            "DELETE",
            "project",
            format!("project-{object}"),
            "CRITICAL",
            format!("{who} deleted project project-{object} with everything in it"),
        );
        story.before = format!(r#"{{"name":"Project {object}","documents":{},"archived":false}}"#, object % 97);
        story
    }

    fn role_changed(who: &str, object: u32, from: &str, to: &str) -> Self {
        let mut story = Self::plain(
            "ROLE_CHANGE",
            "member",
            format!("member-{object}"),
            "WARNING",
            format!("{who} changed the role of member-{object} from {from} to {to}"),
        );
        (story.before, story.after) = (format!(r#"{{"role":"{from}","active":true}}"#), format!(r#"{{"role":"{to}","active":true}}"#));
        story
    }

    fn plan_changed(who: &str, object: u32, from: &str, to: &str) -> Self {
        let mut story = Self::plain(
            "UPDATE",
            "subscription",
            format!("sub-{object}"),
            "INFO",
            format!("{who} moved subscription sub-{object} from {from} to {to}"),
        );
        (story.before, story.after) = (
            format!(r#"{{"plan":"{from}","seats":{}}}"#, object % 40),
            format!(r#"{{"plan":"{to}","seats":{}}}"#, object % 50),
        );
        story
    }

    fn updated(who: &str, object: u32, from: u32, to: u32) -> Self {
        let mut story = Self::plain(
            "UPDATE",
            "invoice",
            format!("inv-{object}"),
            "INFO",
            format!("{who} corrected the amount of invoice inv-{object}"),
        );
        (story.before, story.after) = (
            format!(r#"{{"amount":{from}.50,"currency":"EUR","status":"draft"}}"#),
            format!(r#"{{"amount":{to}.00,"currency":"EUR","status":"approved"}}"#),
        );
        story
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_json_objects_of_the_size_that_figures_are_given_for() {
        let mut generator = Generator::new(3);
        let mut sum = 0;
        for _ in 0..2000 {
            let mut out = Vec::new();
            let made = generator.write(&mut out);
            assert_eq!(made.len, out.len());
            let entry: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
            assert_eq!(entry["id"], made.id.to_string());
            sum += out.len();
        }
        assert!((700..=900).contains(&(sum / 2000)), "{} bytes on average", sum / 2000);
    }
}
