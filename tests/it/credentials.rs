//! Keys and logins on the real binary: what a restart keeps, what a revocation ends, and that no secret is ever written down.

use crate::harness::{Site, answer};
use serde_json::{Value, json};

const PASSWORD: &str = "correct horse battery staple";
const WRONG: &str = "zebra zebra zebra zebra";

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_people_survive_a_crash_and_their_secrets_are_nowhere() {
    let mut site = Site::small();
    site.set("LOG__LEVEL", "trace");
    let mut server = site.start();
    server.ready().await;
    let admin = server.tenant("acme").await;
    let mut secrets = vec![PASSWORD.to_owned(), WRONG.to_owned()];
    let mut keys = Vec::new();
    for name in ["one", "two"] {
        let body = json!({"name": name, "role": "admin", "expires_at": "2199-12-31T23:59:59Z"}).to_string();
        let (status, made) = server.post(&admin, "/tenants/acme/keys", body).await;
        assert_eq!((status, &made["expires_at"]), (201, &json!("2199-12-31T23:59:59.000Z")), "{made}");
        let key = made["key"].as_str().expect("shown").to_owned();
        secrets.push(key.rsplit('_').next().expect("a secret").to_owned());
        keys.push((key, made["key_id"].as_str().expect("an id").to_owned()));
    }
    let user = json!({"email": "ann@example.com", "password": PASSWORD, "role": "auditor", "name": "Ann"}).to_string();
    let (status, user) = server.post(&admin, "/tenants/acme/users", user).await;
    assert_eq!(status, 201, "{user}");
    let login = |password: &'static str| json!({"email": "ann@example.com", "password": password}).to_string();
    let (status, token) = server.post("", "/login", login(PASSWORD)).await;
    assert_eq!((status, &token["expires_in"]), (200, &json!(8 * 3600)), "{token}");
    let token = token["access_token"].as_str().expect("a token").to_owned();
    secrets.push(token.rsplit('.').next().expect("a signature").to_owned());
    let (status, refused) = server.post("", "/login", login(WRONG)).await;
    assert_eq!((status, &refused["code"]), (401, &json!("invalid_login")));
    let delete = |path: String, credential: &str| answer(server.client.delete(server.url(&path)).bearer_auth(credential));
    assert_eq!(delete(format!("/tenants/acme/keys/{}", keys[1].1), &keys[0].0).await.0, 204);
    assert_eq!(server.get(&keys[1].0, "/logs").await.0, 401, "at once");

    server.kill();
    let server = site.start();
    server.ready().await;
    assert_eq!((server.get(&keys[0].0, "/logs").await.0, server.get(&keys[1].0, "/logs").await.0), (200, 401));
    assert_eq!(server.get(&token, "/logs/stats").await.0, 200, "a login outlives a restart");
    let (_, log) = server.get(&keys[0].0, "/logs?log=access&page_size=1000").await;
    let actions: Vec<&str> = log["data"].as_array().expect("data").iter().filter_map(|e| e["action"].as_str()).collect();
    for action in [
        "sluice.key.create",
        "sluice.key.revoke",
        "sluice.user.create",
        "sluice.login",
        "sluice.login.failed",
    ] {
        assert!(actions.contains(&action), "{action}: {actions:?}");
    }
    let path = format!("/tenants/acme/users/{}", user["user_id"].as_str().expect("an id"));
    let delete = |path: String| answer(server.client.delete(server.url(&path)).bearer_auth(&keys[0].0));
    assert_eq!(delete(path).await.0, 204);
    assert_eq!(server.get(&token, "/logs/stats").await.0, 401, "and ends with its account");

    // Every answer that is not the one that showed a secret, every log line, every file.
    let mut places = vec![("the log".to_owned(), server.stderr().into_bytes())];
    for path in ["/tenants/acme/keys", "/tenants/acme/users", "/logs?log=access&page_size=1000", "/tenants/acme"] {
        let (status, body): (u16, Value) = server.get(&keys[0].0, path).await;
        assert_eq!(status, 200, "{path}");
        places.push((path.to_owned(), body.to_string().into_bytes()));
    }
    assert_eq!(server.stop(), Some(0));
    files(&site.data(), &mut places);
    for (place, bytes) in &places {
        for secret in &secrets {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "a secret stands in {place}");
        }
        let hashes = ["\"sha256\"", "argon2id"].map(|word| bytes.windows(word.len()).any(|w| w == word.as_bytes()));
        assert!(hashes == [false, false] || place.contains("catalog"), "a hash stands in {place}");
    }
    assert!(places.iter().any(|(place, bytes)| place.ends_with("keys/acme.json") && !bytes.is_empty()));
}

fn files(folder: &std::path::Path, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("readable").path();
        match path.is_dir() {
            true => files(&path, found),
            false => found.push((path.display().to_string(), std::fs::read(&path).expect("readable"))),
        }
    }
}
