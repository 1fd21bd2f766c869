//! What `search` and `tail` ask for: the filters of the command line as the parameters of the API.
//!
//! Values are passed on as they are. The server knows the rules, and names what is wrong and the nearest right name.

use super::client::Client;
use crate::{
    cli::ClientArgs,
    config::{Settings, parse_span},
    error::AppError,
    model::tenant::TenantId,
};
use clap::Args;
use std::time::Duration;

/// Which entries.
#[derive(Debug, Args)]
pub struct FilterArgs {
    /// What to search for: words, "a phrase", -not, pre*, field:value, OR. In quotes, and behind `--` if it begins with `-`
    #[arg(value_name = "QUERY")]
    pub query: Vec<String>,
    /// A filter of the API by its name, such as ip_address=10.0.0.0/8 or metadata.region=eu; repeated names are OR
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub filter: Vec<(String, String)>,
    /// CREATE, LOGIN, …; any case
    #[arg(long)]
    pub action: Vec<String>,
    /// The user's id
    #[arg(long)]
    pub user: Vec<String>,
    /// INFO, WARNING, ERROR or CRITICAL
    #[arg(long)]
    pub severity: Vec<String>,
    /// The type of the resource
    #[arg(long)]
    pub resource_type: Vec<String>,
    /// The id of the resource
    #[arg(long)]
    pub resource_id: Vec<String>,
    /// An address or a range, such as 10.0.0.0/8
    #[arg(long)]
    pub ip: Vec<String>,
}

/// The server, and whose log.
#[derive(Debug, Args)]
pub struct ReadArgs {
    /// The tenant; needed when the token is made from the local secret or names several tenants
    #[arg(long, env = "SLUICE_TENANT", value_parser = super::tenant_id)]
    pub tenant: Option<TenantId>,
    /// The server.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// The parameters of a request.
pub type Pairs = Vec<(String, String)>;

impl FilterArgs {
    /// As parameters.
    pub fn pairs(&self) -> Pairs {
        let named = [
            ("action", &self.action),
            ("user_id", &self.user),
            ("severity", &self.severity),
            ("resource_type", &self.resource_type),
            ("resource_id", &self.resource_id),
            ("ip_address", &self.ip),
        ];
        let mut pairs = self.filter.clone();
        for (name, values) in named {
            pairs.extend(values.iter().map(|value| (name.to_owned(), value.clone())));
        }
        if !self.query.is_empty() {
            pairs.push(("search".to_owned(), self.query.join(" ")));
        }
        pairs
    }
}

impl ReadArgs {
    /// A client that may read. Blocks to read the secret.
    pub fn connect(&self, settings: &Settings) -> Result<Client, AppError> {
        self.connect_as(settings, "auditor")
    }

    /// The same in another role, where the token is made from the local secret.
    pub fn connect_as(&self, settings: &Settings, role: &str) -> Result<Client, AppError> {
        let has_token = self.client.token.as_deref().is_some_and(|token| !token.trim().is_empty());
        if !has_token && self.tenant.is_none() {
            return Err(AppError::usage("`--tenant` says whose log to read (or give a `--token`)"));
        }
        let client = Client::new(&self.client, settings, self.tenant.as_ref(), &[role])?;
        Ok(client.for_tenant(self.tenant.as_ref()))
    }
}

/// The moment so long ago, as the API takes it.
pub fn moment_before_now(span: Duration) -> String {
    let at = chrono::Duration::from_std(span)
        .ok()
        .and_then(|span| chrono::Utc::now().checked_sub_signed(span));
    // The API's times begin here.
    let at = at.unwrap_or_default().max(chrono::DateTime::UNIX_EPOCH);
    at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

/// `2h`, `30m`, `7d`.
pub fn span(text: &str) -> Result<Duration, String> {
    let good = parse_span(text).filter(|span| !span.is_zero());
    good.ok_or_else(|| "a time such as 30m, 2h or 7d".to_owned())
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.to_owned())),
        _ => Err("NAME=VALUE, such as user_id=ada or metadata.region=eu".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_becomes_a_parameter() {
        let one = |text: &str| vec![text.to_owned()];
        let args = FilterArgs {
            query: vec!["failed".into(), "login*".into()],
            filter: vec![pair("metadata.a=b=c").expect("good"), pair("actor=").expect("good")],
            action: one("LOGIN"),
            user: one("ada"),
            severity: vec!["ERROR".into(), "CRITICAL".into()],
            resource_type: vec![],
            resource_id: vec![],
            ip: one("10.0.0.0/8"),
        };
        let want = [
            ("metadata.a", "b=c"),
            ("actor", ""),
            ("action", "LOGIN"),
            ("user_id", "ada"),
            ("severity", "ERROR"),
            ("severity", "CRITICAL"),
            ("ip_address", "10.0.0.0/8"),
            ("search", "failed login*"),
        ];
        assert_eq!(args.pairs(), want.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert!(pair("=x").is_err() && pair("x").is_err());
    }

    #[test]
    fn a_span_becomes_a_moment_that_the_api_takes() {
        assert_eq!(moment_before_now(Duration::MAX), "1970-01-01T00:00:00.000Z");
        let an_hour_ago = moment_before_now(Duration::from_secs(3600));
        let ms = crate::model::time::parse_rfc3339(&an_hour_ago).expect("the API's form");
        assert!((chrono::Utc::now().timestamp_millis() - ms - 3_600_000).abs() < 60_000, "{an_hour_ago}");
        assert!(span("2h").is_ok() && span("0s").is_err() && span("soon").is_err());
    }
}
