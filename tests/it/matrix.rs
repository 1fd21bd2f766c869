//! Who may do what, cell by cell: every operation of the generated OpenAPI document × every role × own, other, unknown or
//! no tenant × every kind of credential, compared with a table that is written down here a second time.

use crate::harness::{Server, Site};
use futures_util::{StreamExt, stream};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use uuid::Uuid;

/// Every operation that needs a credential, and who may: **w**riter, **v**iewer, a**u**ditor, **a**dmin, **p**latform admin.
const TABLE: &[(&str, &str, &str)] = &[
    ("post", "/logs", "wa"),
    ("post", "/logs/bulk", "wa"),
    ("get", "/logs", "vua"),
    ("delete", "/logs", "a"),
    ("post", "/logs/search", "vua"),
    ("get", "/logs/stats", "vua"),
    ("get", "/logs/stream", "vua"),
    ("get", "/logs/{id}", "vua"),
    ("get", "/logs/export", "ua"),
    ("post", "/logs/export", "ua"),
    ("get", "/logs/export/json", "ua"),
    ("get", "/logs/export/csv", "ua"),
    ("get", "/logs/export/{id}", "ua"),
    ("delete", "/logs/export/{id}", "ua"),
    ("get", "/logs/export/{id}/download", "ua"),
    ("delete", "/logs/cleanup", "a"),
    ("post", "/logs/index/bulk", "a"),
    ("get", "/tenants", "ap"),
    ("post", "/tenants", "p"),
    ("get", "/tenants/{tenant}", "ap"),
    ("put", "/tenants/{tenant}", "ap"),
    ("delete", "/tenants/{tenant}", "p"),
    ("get", "/tenants/{tenant}/usage", "a"),
    ("get", "/tenants/{tenant}/keys", "a"),
    ("post", "/tenants/{tenant}/keys", "a"),
    ("delete", "/tenants/{tenant}/keys/{item}", "a"),
    ("get", "/tenants/{tenant}/users", "a"),
    ("post", "/tenants/{tenant}/users", "a"),
    ("delete", "/tenants/{tenant}/users/{item}", "a"),
    ("get", "/deadletters", "a"),
    ("get", "/deadletters/{id}", "a"),
    ("post", "/deadletters/{id}/replay", "a"),
    ("delete", "/deadletters/{id}", "a"),
];

/// Operations for everybody.
const OPEN: &[(&str, &str)] = &[
    ("post", "/login"),
    ("get", "/health"),
    ("get", "/healthz"),
    ("get", "/health/live"),
    ("get", "/health/ready"),
    ("get", "/openapi.json"),
    ("get", "/logs/board"),
    ("get", "/docs"),
    ("get", "/redoc"),
];

/// The roles by the letters of the table.
const ROLES: [(char, &str); 5] = [('w', "writer"), ('v', "viewer"), ('u', "auditor"), ('a', "admin"), ('p', "platform_admin")];

/// Combinations that a caller may come with.
const COMBINATIONS: [&str; 8] = ["w", "v", "u", "a", "p", "wv", "wu", "ap"];

const OWN: &str = "acme";
const OTHER: &str = "globex";
const UNKNOWN: &str = "nobody";

/// A caller: what is sent along, and what the test knows about it.
#[derive(Clone)]
struct Caller {
    kind: &'static str,
    roles: String,
    /// Whether the credential names [`OWN`]; else it names no tenant.
    has_tenant: bool,
    headers: Vec<(&'static str, String)>,
}

impl Caller {
    fn bearer(kind: &'static str, roles: &str, has_tenant: bool, token: &str) -> Self {
        let headers = vec![("authorization", format!("Bearer {token}"))];
        Self {
            kind,
            roles: roles.into(),
            has_tenant,
            headers,
        }
    }

    fn name(&self) -> String {
        format!("{} {}{}", self.kind, self.roles, if self.has_tenant { "" } else { " without tenant" })
    }

    fn has_any(&self, allowed: &str) -> bool {
        self.roles.chars().any(|role| allowed.contains(role))
    }
}

/// Which tenant a request means.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    /// The caller's.
    Own,
    /// One that exists and is not the caller's: in the path, or in `X-Tenant-ID`.
    Other,
    /// One that does not exist, likewise.
    Unknown,
}

/// What must come back.
#[derive(Debug, PartialEq)]
enum Want {
    Status(u16),
    /// Neither 401 nor 403 nor a mistake of the server: the guard let it through.
    Through,
}

fn want(caller: &Caller, path: &str, allowed: &str, place: Place) -> Want {
    let platform = caller.roles.contains('p');
    let only_platform = caller.roles == "p";
    if !caller.has_tenant && !only_platform {
        return Want::Status(401);
    }
    if path.starts_with("/tenants/{tenant}") {
        return match place {
            Place::Unknown if platform => Want::Status(404),
            Place::Other | Place::Own if platform && allowed.contains('p') => Want::Through,
            Place::Own if caller.has_tenant && caller.has_any(allowed) => Want::Through,
            Place::Own | Place::Other | Place::Unknown => Want::Status(403),
        };
    }
    if place != Place::Own {
        return Want::Status(403);
    }
    // Only the platform's own actions do without a tenant.
    let reach = |role: char| allowed.contains(role) && (caller.has_tenant || role == 'p');
    match caller.roles.chars().any(reach) {
        true => Want::Through,
        false => Want::Status(403),
    }
}

fn names(letters: &str) -> Vec<&'static str> {
    ROLES.iter().filter(|(letter, _)| letters.contains(*letter)).map(|(_, name)| *name).collect()
}

/// The operations of the document: method and path → `x-roles`, `None` for everybody.
fn operations(document: &Value) -> BTreeMap<(String, String), Option<Vec<String>>> {
    let mut all = BTreeMap::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        let below = path.strip_prefix("/api/v1").unwrap_or(path);
        for (method, operation) in methods.as_object().expect("methods") {
            let roles = operation["x-roles"].as_array();
            let roles = roles.map(|roles| roles.iter().map(|r| r.as_str().expect("a name").to_owned()).collect());
            all.insert((method.clone(), below.to_owned()), roles);
        }
    }
    all
}

/// The request, made so that nothing changes when it is let through.
fn request(server: &Server, method: &str, path: &str, place: Place) -> RequestBuilder {
    let tenant = match place {
        Place::Own => OWN,
        Place::Other => OTHER,
        Place::Unknown => UNKNOWN,
    };
    let nothing = Uuid::nil().to_string();
    let filled = path.replace("{tenant}", tenant).replace("{id}", &nothing).replace("{item}", &nothing);
    let url = match (method, path) {
        ("delete", "/logs" | "/logs/cleanup") => format!("{filled}?dry_run=true"),
        _ => filled,
    };
    let method = Method::from_bytes(method.to_uppercase().as_bytes()).expect("a method");
    let body = match path {
        "/logs/export" => json!({"format": "none"}),
        _ => json!({}),
    };
    let mut request = server.client.request(method.clone(), server.url(&url));
    if matches!(method, Method::POST | Method::PUT) {
        request = request.header("content-type", "application/json").body(body.to_string());
    }
    if path == "/logs/stream" {
        request = request.header("accept", "text/event-stream");
    }
    if place != Place::Own && !path.contains("{tenant}") {
        request = request.header("x-tenant-id", tenant);
    }
    request
}

async fn check(server: &Server, caller: &Caller, (method, path, allowed): (&str, &str, &str), place: Place) -> Option<String> {
    // A platform admin without a tenant has none to choose among; the gateway's tenant *is* the header.
    let by_header = place != Place::Own && !path.contains("{tenant}");
    if by_header && (!caller.has_tenant || caller.kind == "gateway" || caller.roles == "p") {
        return None;
    }
    let mut request = request(server, method, path, place);
    for (name, value) in &caller.headers {
        request = request.header(*name, value);
    }
    // The body is not read: a feed has no end.
    let status = request.send().await.expect("it answers").status().as_u16();
    let want = want(caller, path, allowed, place);
    let good = match want {
        Want::Status(want) => status == want,
        Want::Through => !matches!(status, 401 | 403 | 429 | 500 | 503 | 504),
    };
    (!good).then(|| format!("{} · {method} {path} · {place:?}: {status}, not {want:?}", caller.name()))
}

fn locals(server: &Server) -> Vec<Caller> {
    let mut all = Vec::new();
    for roles in COMBINATIONS {
        for tenant in [Some(OWN), None] {
            let token = server.token(tenant, &names(roles));
            all.push(Caller::bearer("local token", roles, tenant.is_some(), &token));
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_asks_every_caller_for_its_role_and_tenant() {
    let site = site();
    let server = site.start();
    server.tenant(OWN).await;
    server.tenant(OTHER).await;
    let (_, document) = server.get("", "/openapi.json").await;
    let operations = operations(&document);

    // The document is the table.
    for ((method, path), roles) in &operations {
        let row = TABLE.iter().find(|(m, p, _)| m == method && p == path);
        let open = OPEN.contains(&(method.as_str(), path.as_str()));
        match (row, roles) {
            (Some((_, _, letters)), Some(roles)) => assert_eq!(*roles, names(letters), "{method} {path}"),
            (None, None) => assert!(open, "{method} {path} is open, and the table does not know it"),
            _ => panic!("{method} {path}: {roles:?} in the document, {row:?} in the table"),
        }
    }
    for (method, path) in TABLE.iter().map(|(m, p, _)| (m, p)).chain(OPEN.iter().map(|(m, p)| (m, p))) {
        let is_there = operations.contains_key(&((*method).to_owned(), (*path).to_owned()));
        assert!(is_there, "{method} {path}");
    }

    let callers = callers(&server).await;
    let cells = callers.iter().flat_map(|caller| {
        let places = [Place::Own, Place::Other, Place::Unknown];
        TABLE.iter().flat_map(move |row| places.map(|place| (caller, *row, place)))
    });
    let wrong: Vec<String> = stream::iter(cells)
        .map(|(caller, row, place)| check(&server, caller, row, place))
        .buffer_unordered(8)
        .filter_map(std::future::ready)
        .collect()
        .await;
    assert!(wrong.is_empty(), "{} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));

    // Without a credential, and with a broken one of each kind, nothing but what is open.
    for (method, path, _) in TABLE {
        for headers in broken() {
            let mut request = request(&server, method, path, Place::Own);
            for (name, value) in &headers {
                request = request.header(*name, *value);
            }
            let status = request.send().await.expect("it answers").status();
            assert_eq!(status, 401, "{method} {path} with {headers:?}");
        }
    }
    for (method, path) in OPEN {
        let status = request(&server, method, path, Place::Own).send().await.expect("it answers").status();
        assert!(!matches!(status.as_u16(), 401 | 403 | 500), "{method} {path}: {status}");
    }
}

fn broken() -> Vec<Vec<(&'static str, &'static str)>> {
    vec![
        vec![],
        vec![("authorization", "Bearer x.y.z")],
        vec![("authorization", "Basic YTpi")],
        vec![("x-api-key", "slk_0_0")],
        vec![("authorization", "Bearer slk_0_0")],
        vec![("authorization", "Bearer x"), ("x-api-key", "slk_0_0")],
        vec![("x-user-id", "ann"), ("x-user-role", "admin"), ("x-tenant-id", OWN)],
    ]
}

const ISSUER: &str = "https://idp.example";
const ISSUER_SECRET: &str = "a secret of somebody else's, long enough";
const GATEWAY_SECRET: &str = "what only the gateway and the server know";

/// A server that knows every kind of credential.
fn site() -> Site {
    let mut site = Site::small();
    let issuer = json!([{
        "name": "idp", "issuer": ISSUER, "audience": ["sluice"], "algorithms": ["HS256"], "tenants": ["*"], "allow_platform": true, "max_role": "platform_admin",
        "claims": {"tenant": "org", "role": "roles", "subject": "sub"},
        "roles": {"writer": ["writer"], "viewer": ["viewer"], "auditor": ["auditor"], "admin": ["admin"], "platform_admin": ["platform_admin"]},
        "keys": {"secret": ISSUER_SECRET},
    }]);
    let file = site.folder.path().join("gateway.secret");
    std::fs::write(&file, GATEWAY_SECRET).expect("written");
    site.set("AUTH__ISSUERS", &issuer.to_string())
        .set("AUTH__GATEWAY__ENABLED", "true")
        .set("AUTH__GATEWAY__CIDRS", r#"["127.0.0.0/8"]"#)
        .set("AUTH__GATEWAY__SECRET_FILE", file.to_str().expect("text"));
    site
}

async fn callers(server: &Server) -> Vec<Caller> {
    let mut all = locals(server);
    all.extend(foreign());
    all.extend(gateways());
    all.extend(keys(server).await);
    all.extend(logins(server).await);
    all
}

/// Tokens of somebody else's identity provider.
fn foreign() -> Vec<Caller> {
    let key = jsonwebtoken::EncodingKey::from_secret(ISSUER_SECRET.as_bytes());
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
    let exp = chrono::Utc::now().timestamp() + 3600;
    let token = |roles: &str, tenant: Option<&str>| {
        let mut claims = json!({"iss": ISSUER, "aud": "sluice", "sub": "ann", "roles": names(roles), "exp": exp});
        if let Some(tenant) = tenant {
            claims["org"] = json!(tenant);
        }
        jsonwebtoken::encode(&header, &claims, &key).expect("encodes")
    };
    let both = COMBINATIONS.iter().flat_map(|roles| [(roles, Some(OWN)), (roles, None)]);
    both.map(|(roles, tenant)| Caller::bearer("foreign token", roles, tenant.is_some(), &token(roles, tenant)))
        .collect()
}

/// Requests that a gateway has vouched for.
fn gateways() -> Vec<Caller> {
    let both = ["w", "v", "u", "a"].into_iter().flat_map(|roles| [(roles, true), (roles, false)]);
    both.map(|(roles, has_tenant)| {
        let mut headers = vec![
            ("x-gateway-secret", GATEWAY_SECRET.to_owned()),
            ("x-user-id", "ann".to_owned()),
            ("x-user-role", names(roles)[0].to_owned()),
        ];
        if has_tenant {
            headers.push(("x-tenant-id", OWN.to_owned()));
        }
        Caller {
            kind: "gateway",
            roles: roles.into(),
            has_tenant,
            headers,
        }
    })
    .collect()
}

/// API keys, in either header.
async fn keys(server: &Server) -> Vec<Caller> {
    let (admin, mut all) = (server.token(Some(OWN), &["admin"]), Vec::new());
    for roles in ["w", "v", "u", "a"] {
        let key = json!({"name": roles, "role": names(roles)[0]}).to_string();
        let (status, made) = server.post(&admin, &format!("/tenants/{OWN}/keys"), key).await;
        assert_eq!(status, 201, "{made}");
        let secret = made["key"].as_str().expect("shown once").to_owned();
        all.push(Caller::bearer("API key as Bearer", roles, true, &secret));
        all.push(Caller {
            kind: "X-API-Key",
            roles: roles.into(),
            has_tenant: true,
            headers: vec![("x-api-key", secret)],
        });
    }
    all
}

/// People with a password, who have logged in.
async fn logins(server: &Server) -> Vec<Caller> {
    let (admin, mut all) = (server.token(Some(OWN), &["admin"]), Vec::new());
    for roles in ["w", "v", "u", "a"] {
        let email = format!("{roles}@example.com");
        let user = json!({"email": email, "password": "correct horse battery", "role": names(roles)[0]}).to_string();
        let (status, made) = server.post(&admin, &format!("/tenants/{OWN}/users"), user).await;
        assert_eq!(status, 201, "{made}");
        let (status, session) = server
            .post("", "/login", json!({"email": email, "password": "correct horse battery"}).to_string())
            .await;
        assert_eq!((status, &session["tenant_id"]), (200, &json!(OWN)), "{session}");
        all.push(Caller::bearer("login", roles, true, session["access_token"].as_str().expect("a token")));
    }
    all
}
