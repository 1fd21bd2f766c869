//! What authentication costs a request: a token seen before (looked up and looked at again), one never seen, by algorithm, and an
//! API key, which is never remembered. Targets: 5 µs seen before, 150 µs for ES256 never seen.
//!
//! Run: `make bench ARGS="--bench auth"`.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;
use sluice::{
    auth::{Authenticator, Credential, Presented, Role, load},
    catalog::{Catalog, NewKey, NewTenant, SettingsPatch},
    config::{Settings, Sources},
    fs::real::RealFs,
    model::tenant::TenantId,
    objects::folder::FolderObjects,
};
use std::{
    fs,
    hint::black_box,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::runtime::{Builder, Runtime};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// One issuer for each algorithm: name, private key, public key.
const ISSUERS: [(&str, Algorithm, &str, &str); 5] = [
    ("hs256", Algorithm::HS256, SECRET, ""),
    (
        "rs256",
        Algorithm::RS256,
        include_str!("../src/auth/testing/keys/rsa_a.pem"),
        include_str!("../src/auth/testing/keys/rsa_a.pub"),
    ),
    (
        "ps256",
        Algorithm::PS256,
        include_str!("../src/auth/testing/keys/rsa_a.pem"),
        include_str!("../src/auth/testing/keys/rsa_a.pub"),
    ),
    (
        "es256",
        Algorithm::ES256,
        include_str!("../src/auth/testing/keys/ec_a.pem"),
        include_str!("../src/auth/testing/keys/ec_a.pub"),
    ),
    (
        "eddsa",
        Algorithm::EdDSA,
        include_str!("../src/auth/testing/keys/ed_a.pem"),
        include_str!("../src/auth/testing/keys/ed_a.pub"),
    ),
];

fn config(dir: &Path) -> Settings {
    let issuers = ISSUERS.map(|(name, algorithm, _, public)| {
        let file = dir.join(format!("{name}.pub"));
        fs::write(&file, public).expect("written");
        let keys = if public.is_empty() {
            json!({"secret": SECRET})
        } else {
            json!({"pem_file": file})
        };
        json!({"issuer": name, "audience": ["sluice"], "algorithms": [format!("{algorithm:?}")], "keys": keys})
    });
    let sources = Sources {
        environment: vec![("SLUICE__AUTH__ISSUERS".into(), json!(issuers).to_string().into())],
        ..Sources::default()
    };
    Settings::load(&sources).expect("good")
}

/// A token as providers make them, with some claims that we do not need.
fn token(at: usize, serial: u64) -> String {
    let (name, algorithm, private, _) = ISSUERS[at];
    let key = match algorithm {
        Algorithm::HS256 => EncodingKey::from_secret(private.as_bytes()),
        Algorithm::ES256 => EncodingKey::from_ec_pem(private.as_bytes()).expect("a key"),
        Algorithm::EdDSA => EncodingKey::from_ed_pem(private.as_bytes()).expect("a key"),
        _ => EncodingKey::from_rsa_pem(private.as_bytes()).expect("a key"),
    };
    let claims = json!({
        "iss": name, "aud": ["account", "sluice"], "sub": "7d0f1c52-9a67-4a49-b1b0-5d3a6c3f0b11", "tenant": "acme", "role": ["viewer"],
        "exp": 4_000_000_000u64, "iat": 1_700_000_000, "jti": serial, "scope": "openid profile email", "email": "ann@example.com", "name": "Ann Example",
        "preferred_username": "ann", "session_state": "f0a4d9c2-7f2e-4f55-9d0b-0f6f2c1f9d77",
    });
    jsonwebtoken::encode(&Header::new(algorithm), &claims, &key).expect("encodes")
}

fn fresh(runtime: &Runtime, settings: &Settings, catalog: &Catalog) -> Authenticator {
    let (issuers, gateway) = runtime.block_on(async { load::load(&settings.auth).expect("good").start() });
    Authenticator::new(SECRET.as_bytes(), issuers, gateway, Some(catalog.clone()))
}

fn authentication(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a folder");
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("threads");
    let (catalog, key) = runtime.block_on(async {
        let objects = FolderObjects::open(Arc::new(RealFs), dir.path().join("objects")).expect("a folder");
        let catalog = Catalog::open(Arc::new(objects)).await.expect("opened");
        let tenant_id = TenantId::parse("acme").expect("a tenant");
        let new = NewTenant {
            tenant_id: tenant_id.clone(),
            name: None,
            settings: SettingsPatch::default(),
        };
        catalog.create(new).await.expect("made");
        let new = NewKey {
            name: "a service".to_owned(),
            role: Role::Writer,
            expires_at: None,
        };
        let (_, text) = catalog.create_key(&tenant_id, new).await.expect("made");
        (catalog, text.reveal().to_owned())
    });
    let settings = config(dir.path());
    let auth = fresh(&runtime, &settings, &catalog);
    let ask = |auth: &Authenticator, presented: &Presented<'_>| black_box(runtime.block_on(auth.authenticate(black_box(presented))).expect("good"));

    let mut group = c.benchmark_group("auth");
    group.throughput(Throughput::Elements(1));
    let known = token(1, 0);
    group.bench_function("seen before (RS256)", |b| b.iter(|| ask(&auth, &Presented::bearer(&known))));
    let principal = ask(&auth, &Presented::bearer(&known));
    group.bench_function("still good (feed)", |b| b.iter(|| black_box(auth.still_good(black_box(&principal)))));
    group.bench_function("API key", |b| {
        let presented = Presented {
            credential: Credential::ApiKey(&key),
            tenant: None,
        };
        b.iter(|| ask(&auth, &presented));
    });
    for (at, (name, ..)) in ISSUERS.iter().enumerate() {
        let tokens: Vec<String> = (0..50).map(|serial| token(at, serial)).collect();
        group.bench_function(format!("never seen ({name})"), |b| {
            b.iter_custom(|rounds| {
                let (mut left, mut spent) = (rounds as usize, Duration::ZERO);
                while left > 0 {
                    // One that remembers nothing yet.
                    let auth = fresh(&runtime, &settings, &catalog);
                    let now = &tokens[..left.min(tokens.len())];
                    let start = Instant::now();
                    now.iter().for_each(|token| drop(ask(&auth, &Presented::bearer(token))));
                    spent += start.elapsed();
                    left -= now.len();
                }
                spent
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = authentication
}
criterion_main!(benches);
