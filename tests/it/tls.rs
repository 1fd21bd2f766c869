//! TLS as an operator sets it up: files in the configuration, our own client with a private authority, renewal under load.

use crate::harness::{PATIENCE, Site, answer};
use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, time::Instant};

/// A site whose server has a certificate of a private authority.
struct Private {
    site: Site,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    authority: String,
}

impl Private {
    fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("a key");
        let authority = params.self_signed(&key).expect("signed").pem();
        let mut site = Site::small();
        let path = |name: &str| site.folder.path().join(name).display().to_string();
        let tls = format!(r#"{{"cert_file": "{}", "key_file": "{}"}}"#, path("cert.pem"), path("key.pem"));
        site.set("HTTP__TLS", &tls);
        let new = Self {
            site,
            issuer: rcgen::Issuer::new(params, key),
            authority,
        };
        fs::write(new.path("ca.pem"), &new.authority).expect("written");
        new.renew();
        new
    }

    fn path(&self, name: &str) -> PathBuf {
        self.site.folder.path().join(name)
    }

    fn renew(&self) {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        let cert = params.signed_by(&key, &self.issuer).expect("signed");
        fs::write(self.path("cert.pem"), cert.pem()).expect("written");
        fs::write(self.path("key.pem"), key.serialize_pem()).expect("written");
        self.mode(0o600);
    }

    fn mode(&self, mode: u32) {
        fs::set_permissions(self.path("key.pem"), fs::Permissions::from_mode(mode)).expect("changed");
    }

    fn client(&self) -> reqwest::ClientBuilder {
        sluice::cli::client::plain().expect("a provider is installed");
        let authority = reqwest::Certificate::from_pem(self.authority.as_bytes()).expect("PEM");
        reqwest::Client::builder().tls_certs_only([authority])
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_under_load_and_our_own_client_trusts_a_private_authority() {
    let private = Private::new();
    private.mode(0o644);
    let server = private.site.start();
    assert!(server.stderr().contains("others may read the private key"), "{}", server.stderr());
    let url = format!("https://localhost:{}", server.http.port());
    // The admin listener is in the clear.
    let report = format!("http://{}/health", server.admin);
    let certificate = || async {
        let (_, report) = answer(server.client.get(&report)).await;
        report["dependencies"]["certificate"].clone()
    };
    assert_eq!(certificate().await["status"], "ok");

    let client = private.client().build().expect("a client");
    let platform = server.token(None, &["platform_admin"]);
    let made = client
        .post(format!("{url}/api/v1/tenants"))
        .bearer_auth(&platform)
        .body(r#"{"tenant_id": "acme"}"#)
        .send();
    let made = made.await.expect("an answer");
    assert_eq!((made.status().as_u16(), format!("{:?}", made.version()).as_str()), (201, "HTTP/2.0"));
    assert!(made.headers().contains_key("strict-transport-security"));

    // Every request of these is greeted anew.
    let fresh = private.client().pool_max_idle_per_host(0).build().expect("a client");
    let admin = server.token(Some("acme"), &["admin"]);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let writer = {
        let (url, admin) = (format!("{url}/api/v1/logs"), admin.clone());
        tokio::spawn(async move {
            let mut sent = 0u64;
            while !*stopped.borrow() {
                let body = format!(r#"{{"action": "TLS", "resource_type": "r", "resource_id": "{sent}"}}"#);
                let answer = fresh.post(&url).bearer_auth(&admin).body(body).send().await.expect("no request fails");
                assert_eq!(answer.status(), 201);
                sent += 1;
            }
            sent
        })
    };
    let until = |status: &'static str, words: &'static str| {
        let certificate = &certificate;
        async move {
            let deadline = Instant::now() + PATIENCE;
            loop {
                let seen = certificate().await;
                if seen["status"] == status && seen["detail"].as_str().is_some_and(|text| text.contains(words)) {
                    return;
                }
                assert!(Instant::now() < deadline, "`{status}`, `{words}` never came: {seen}");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    };
    fs::write(private.path("cert.pem"), "half a file").expect("written");
    until("failing", "`http.tls.cert_file`").await;
    private.renew();
    until("ok", "good until").await;
    stop.send(true).expect("it runs");
    let sent = writer.await.expect("no request failed");
    assert!(sent > 0);

    // The commands: with the authority they work, without it they say why not.
    let ca = private.path("ca.pem").display().to_string();
    let search = |args: &[&str]| {
        let all = [&["search", "--url", &url, "--tenant", "acme", "--output", "json", "--limit", "1"], args].concat();
        private.site.command(&all).output().expect("it runs")
    };
    let found = search(&["--ca-file", &ca]);
    assert_eq!(found.status.code(), Some(0), "{}", String::from_utf8_lossy(&found.stderr));
    assert!(String::from_utf8_lossy(&found.stdout).contains("TLS"));
    assert_eq!(search(&[]).status.code(), Some(1), "the system does not know the authority");
    let none = search(&["--ca-file", &private.path("cert-that-is-not-there.pem").display().to_string()]);
    assert_eq!(none.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&none.stderr).contains("--ca-file"));
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_certificate_that_cannot_be_used_is_named_before_anything_starts() {
    let private = Private::new();
    let refused = |key: &str| {
        let (code, text) = private.site.try_start().err().expect("refused");
        assert_eq!(code, Some(64), "{text}");
        assert!(text.contains(&format!("`{key}`")), "{text}");
        let checked = private.site.command(&["check-config"]).output().expect("it runs");
        assert_eq!(checked.status.code(), Some(64));
        assert!(String::from_utf8_lossy(&checked.stderr).contains(key));
    };
    let key = fs::read(private.path("key.pem")).expect("there");
    fs::remove_file(private.path("key.pem")).expect("there");
    refused("http.tls.key_file");
    fs::write(private.path("key.pem"), rcgen::KeyPair::generate().expect("a key").serialize_pem()).expect("written");
    refused("http.tls.key_file");
    fs::write(private.path("key.pem"), key).expect("written");
    let checked = private.site.command(&["check-config"]).output().expect("it runs");
    assert_eq!(checked.status.code(), Some(0));
    fs::write(private.path("cert.pem"), "").expect("written");
    refused("http.tls.cert_file");
}
