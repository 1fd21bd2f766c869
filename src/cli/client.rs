//! The HTTP client of the commands that talk to a server.

use super::{ClientArgs, entries::harmless};
use crate::{
    auth::{
        jwt,
        secret::{self, LocalSecret},
    },
    config::Settings,
    error::AppError,
    model::tenant::TenantId,
};
use reqwest::{Certificate, Method, RequestBuilder, Url};
use std::{fs, path::Path, time::Duration};

/// How long a token that we make is good. It is made new for each command and again at half of its time.
const TOKEN_SECONDS: i64 = 3600;
/// A server that is there answers at once.
const CONNECT: Duration = Duration::from_secs(10);
/// Longer than any answer of the contract takes (`wait=stored`: 10 s) and a body of 16 MiB on a slow line.
const REQUEST: Duration = Duration::from_secs(120);

/// A server, and the credential for it.
pub struct Client {
    http: reqwest::Client,
    base: String,
    credential: Credential,
    tenant: Option<TenantId>,
}

enum Credential {
    Given(String),
    Local {
        secret: LocalSecret,
        tenant: Option<TenantId>,
        roles: Vec<String>,
        /// The token in use, and when it was made.
        token: std::sync::Mutex<(String, i64)>,
    },
}

/// A bare HTTP client that follows no redirects and has no limit on how long an answer may take (the live feed has no end).
pub fn plain() -> reqwest::Result<reqwest::Client> {
    builder(None).build()
}

/// Trusts the certificates given, and those of the system only where none are given.
fn builder(trusted: Option<Vec<Certificate>>) -> reqwest::ClientBuilder {
    // Fails when somebody installed one before, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = match trusted {
        Some(certificates) => reqwest::Client::builder().tls_certs_only(certificates),
        None => reqwest::Client::builder(),
    };
    // An engine's client brings compression into the build; the same is asked for whichever are built.
    builder
        .no_gzip()
        .connect_timeout(CONNECT)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("sluice/", env!("CARGO_PKG_VERSION")))
}

/// The certificates of `--ca-file`. Blocks.
fn trusted(path: &Path) -> Result<Vec<Certificate>, AppError> {
    let bad = |why: String| AppError::usage(format!("`--ca-file` `{}`: {why}", path.display()));
    let pem = fs::read(path).map_err(|e| bad(e.to_string()))?;
    let certificates = Certificate::from_pem_bundle(&pem).map_err(|_| bad("is not PEM".to_owned()))?;
    if certificates.is_empty() {
        return Err(bad("holds no certificate; PEM is needed".to_owned()));
    }
    Ok(certificates)
}

impl Client {
    /// Prepares requests; nothing is sent yet. Without a token one is made from the local secret for this tenant and
    /// these roles. Blocks to read the secret.
    pub fn new(args: &ClientArgs, settings: &Settings, tenant: Option<&TenantId>, roles: &[&str]) -> Result<Self, AppError> {
        let url = Url::parse(&args.url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let url = url.ok_or_else(|| AppError::usage("`--url` must be http://HOST:PORT or https://HOST:PORT"))?;
        let credential = match args.token.as_deref().map(str::trim) {
            Some(token) if !token.is_empty() => Credential::Given(token.to_owned()),
            _ => Credential::Local {
                secret: secret::read(&settings.data_dir).map_err(|e| AppError::usage(format!("no `--token`, and no local secret to make one: {e}")))?,
                tenant: tenant.cloned(),
                roles: roles.iter().map(|role| (*role).to_owned()).collect(),
                token: (String::new(), i64::MIN).into(),
            },
        };
        Ok(Self {
            http: builder(args.ca_file.as_deref().map(trusted).transpose()?)
                .timeout(REQUEST)
                .build()
                .map_err(|e| AppError::failed(format!("no HTTP client: {e}")))?,
            base: url.as_str().trim_end_matches('/').to_owned(),
            credential,
            tenant: None,
        })
    }

    /// Names the tenant in every request, which chooses among those of the token.
    pub fn for_tenant(mut self, tenant: Option<&TenantId>) -> Self {
        self.tenant = tenant.cloned();
        self
    }

    /// Begins a request of the API; `path` begins with `/` and stands below `/api/v1`.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}/api/v1{path}", self.base);
        let request = self.http.request(method, url).bearer_auth(self.token(chrono::Utc::now().timestamp()));
        match &self.tenant {
            Some(tenant) => request.header("X-Tenant-ID", tenant.as_str()),
            None => request,
        }
    }

    fn token(&self, now: i64) -> String {
        match &self.credential {
            Credential::Given(token) => token.clone(),
            Credential::Local { secret, tenant, roles, token } => {
                let mut token = token.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if now >= token.1.saturating_add(TOKEN_SECONDS / 2) {
                    let new = jwt::NewToken {
                        sub: "cli",
                        tenant: tenant.as_ref(),
                        role: roles,
                        exp: now + TOKEN_SECONDS,
                    };
                    *token = (jwt::mint(secret.key(), &new), now);
                }
                token.0.clone()
            }
        }
    }
}

/// A path with parameters, escaped.
pub fn path_with(path: &str, pairs: &[(String, String)]) -> String {
    let mut url = Url::parse("http://h/").expect("well formed");
    url.query_pairs_mut().extend_pairs(pairs);
    format!("{path}?{}", url.query().unwrap_or_default())
}

/// No answer came.
pub fn unreachable(error: &reqwest::Error) -> AppError {
    // The innermost reason is the one that helps: `Connection refused`.
    let mut reason: &dyn std::error::Error = error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    AppError::failed(format!("the server cannot be reached: {reason}"))
}

/// An answer that is no success, for people: what the server says, and each field with its code. A 422 is wrong usage: what it
/// is about was typed on the command line.
pub async fn problem(what: &str, answer: reqwest::Response) -> AppError {
    let status = answer.status();
    let body = answer.bytes().await.unwrap_or_default();
    let text = readable(what, status, &body);
    if status == reqwest::StatusCode::UNPROCESSABLE_ENTITY {
        AppError::usage(text)
    } else {
        AppError::failed(text)
    }
}

fn readable(what: &str, status: reqwest::StatusCode, body: &[u8]) -> String {
    #[derive(Default, serde::Deserialize)]
    #[serde(default)]
    struct Problem {
        detail: String,
        code: String,
        errors: Vec<Field>,
    }
    #[derive(Default, serde::Deserialize)]
    #[serde(default)]
    struct Field {
        field: String,
        code: String,
        message: String,
    }
    // Whatever else stands between us and the server may answer, with anything.
    let problem: Problem = serde_json::from_slice(body).unwrap_or_default();
    let mut text = format!("{what}: {}", status.as_u16());
    for part in [&problem.code, &problem.detail].into_iter().filter(|part| !part.is_empty()) {
        text.extend([": ", &*harmless(part)]);
    }
    if problem.code.is_empty() && problem.detail.is_empty() {
        text.extend([" ", status.canonical_reason().unwrap_or_default()]);
    }
    for Field { field, code, message } in &problem.errors {
        text.extend(["\n  ", &*harmless(&format!("{field}: {code}: {message}"))]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{auth::Role, config::Sources};

    #[test]
    fn a_problem_is_readable_and_harmless() {
        let body = br#"{"title":"x","status":422,"detail":"one parameter is wrong","code":"invalid","errors":[{"field":"search","code":"invalid_search","message":"no word\u001b[2J at 5"}]}"#;
        let text = readable("refused", reqwest::StatusCode::UNPROCESSABLE_ENTITY, body);
        assert_eq!(
            text,
            "refused: 422: invalid: one parameter is wrong\n  search: invalid_search: no word␛[2J at 5"
        );
        let text = readable("refused", reqwest::StatusCode::BAD_GATEWAY, b"<html>");
        assert_eq!(text, "refused: 502 Bad Gateway");
        let pairs = [("search".to_owned(), "a b&c=\"ü\"".to_owned())];
        assert_eq!(path_with("/logs", &pairs), "/logs?search=a+b%26c%3D%22%C3%BC%22");
    }

    #[test]
    fn a_token_is_made_from_the_local_secret_and_made_again_in_time() {
        let dir = tempfile::tempdir().expect("a folder");
        let key = secret::read_or_create(dir.path()).expect("made");
        let sources = Sources {
            flags: vec![("--data-dir", "data_dir", dir.path().display().to_string())],
            ..Sources::default()
        };
        let settings = Settings::load(&sources).expect("good");
        let args = |url: &str, token: Option<&str>| ClientArgs {
            url: url.to_owned(),
            token: token.map(str::to_owned),
            ca_file: None,
        };
        let tenant = TenantId::parse("acme").expect("good");
        let client = Client::new(&args("http://h:1/", Some("")), &settings, Some(&tenant), &["writer"]).expect("made");
        let now = chrono::Utc::now().timestamp();
        let token = client.token(now);
        assert_eq!(client.token(now + 1799), token);
        assert_ne!(client.token(now + 1800), token);
        let principal = jwt::Authenticator::local(key.key())
            .authenticate_now(&crate::auth::Presented::bearer(&token))
            .expect("good");
        assert_eq!((principal.tenant, principal.roles), (Some(tenant), vec![Role::Writer]));

        let given = Client::new(&args("https://h", Some("x.y.z")), &settings, None, &[]).expect("made");
        let request = given.request(Method::GET, "/logs").build().expect("good");
        assert_eq!(request.url().as_str(), "https://h/api/v1/logs");
        assert_eq!(request.headers()["authorization"], "Bearer x.y.z");

        for bad in ["h:1", "ftp://h", "", "http://"] {
            assert!(Client::new(&args(bad, Some("t")), &settings, None, &[]).is_err(), "{bad}");
        }
        std::fs::remove_file(dir.path().join(secret::FILE)).expect("there");
        assert!(Client::new(&args("http://h", None), &settings, None, &[]).is_err());
        assert!(!dir.path().join(secret::FILE).exists(), "a client makes no secret");
    }
}
