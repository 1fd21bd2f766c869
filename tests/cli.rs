//! The real binary: arguments, output and exit codes that scripts rely on.

use sluice::auth::{Presented, Role, jwt::Authenticator};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

/// The binary in an empty environment, with its data in `dir`.
fn sluice(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    command.env_clear().env("SLUICE__DATA_DIR", dir).current_dir(dir).args(arguments);
    // Where coverage is measured: not into the folder of the test.
    command.envs(std::env::var_os("LLVM_PROFILE_FILE").map(|file| ("LLVM_PROFILE_FILE", file)));
    command
}

fn run(dir: &Path, arguments: &[&str]) -> Output {
    sluice(dir, arguments).output().expect("started")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

#[test]
fn wrong_usage_is_64_and_asking_for_help_is_not_wrong() {
    let dir = tempfile::tempdir().expect("a folder");
    let wrong: [&[&str]; 20] = [
        &[],
        &["frobnicate"],
        &["serve", "--no-such-flag"],
        &["serve", "--listen", "nowhere"],
        &["serve", "--role", "api"],
        &["token"],
        &["token", "--role", "viewer"],
        &["token", "--role", "king", "--tenant", "acme"],
        &["token", "--role", "viewer", "--tenant", "../x"],
        &["token", "--role", "viewer", "--tenant", "acme", "--ttl", "1"],
        &["ingest", "--tenant", "acme"],
        &["ingest", "file", "--tenant", "acme", "--format", "xml"],
        &["demo", "--seconds", "0"],
        &["search", "word"],
        &["search", "word", "--tenant", "acme", "--since", "soon"],
        &["search", "--tenant", "acme", "--since", "2h", "--from", "2026-01-01"],
        &["search", "--tenant", "acme", "--filter", "user_id"],
        &["search", "--tenant", "acme", "--limit", "0"],
        &["tail"],
        &["tail", "--token", "x", "--after", "-1"],
    ];
    for arguments in wrong {
        let output = run(dir.path(), arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {}", text(&output.stderr));
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
    for arguments in [&["--help"][..], &["--version"], &["serve", "--help"], &["help", "token"]] {
        let output = run(dir.path(), arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!output.stdout.is_empty());
    }
    assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 0, "nothing was made");
}

#[test]
fn check_config_prints_what_is_in_force_or_all_that_is_wrong() {
    let dir = tempfile::tempdir().expect("a folder");
    fs::write(dir.path().join("c.toml"), "[http]\nlisten = \"127.0.0.1:0\"\n").expect("written");
    let output = run(dir.path(), &["check-config", "--config", "c.toml"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("listen = \"127.0.0.1:0\""));
    assert!(text(&output.stdout).contains(&format!("data_dir = \"{}\"", dir.path().display())));

    let output = sluice(dir.path(), &["check-config", "--config", "c.toml"])
        .env("SLUICE__HTTP__LISTEN", "x")
        .env("SLUICE__NO__SUCH", "1")
        .output()
        .expect("started");
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(64), ""));
    let lines: Vec<_> = text(&output.stderr).lines().collect();
    assert!(
        lines.len() == 2 && lines[0].starts_with("sluice: configuration: `http.listen` is `x`") && lines[1].contains("`no.such`"),
        "{lines:?}"
    );
}

#[test]
fn a_token_is_printed_alone_and_signed_with_the_secret_of_the_folder() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = dir.path().join("new/data");
    let token = |arguments: &[&str]| {
        let mut all = vec!["--data-dir", data.to_str().expect("UTF-8"), "token"];
        all.extend_from_slice(arguments);
        let output = run(dir.path(), &all);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let lines: Vec<_> = text(&output.stdout).lines().map(str::to_owned).collect();
        assert!(lines.len() == 1 && output.stderr.is_empty(), "{lines:?}");
        lines[0].clone()
    };
    let first = token(&["--tenant", "acme", "--role", "user", "--role", "auditor", "--sub", "ann", "--ttl", "30m"]);
    let secret = data.join("secret");
    assert_eq!(fs::metadata(&secret).expect("made").permissions().mode() & 0o777, 0o600);
    let key = fs::read_to_string(&secret).expect("text");
    let authenticator = Authenticator::local(key.trim().as_bytes());
    let principal = authenticator.authenticate_now(&Presented::bearer(&first)).expect("good");
    assert_eq!((&*principal.subject, principal.tenant.as_ref().map(|t| t.as_str())), ("ann", Some("acme")));
    assert_eq!(principal.roles, [Role::Writer, Role::Viewer, Role::Auditor]);
    let left = principal.expires_at.expect("set") - chrono::Utc::now().timestamp();
    assert!((1790..=1800).contains(&left), "{left}");

    let platform = authenticator
        .authenticate_now(&Presented::bearer(&token(&["--role", "platform_admin"])))
        .expect("the secret stays");
    assert_eq!((&*platform.subject, platform.tenant), ("cli", None));
}

#[test]
fn a_folder_that_cannot_be_made_is_73_and_one_line() {
    let dir = tempfile::tempdir().expect("a folder");
    fs::write(dir.path().join("file"), "in the way").expect("written");
    let output = run(dir.path(), &["--data-dir", "file", "token", "--role", "viewer", "--tenant", "acme"]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(73), ""));
    let error = text(&output.stderr);
    assert!(
        error.lines().count() == 1 && error.starts_with("sluice: the local secret cannot be had: `file/secret`"),
        "{error}"
    );

    fs::write(dir.path().join("secret"), "short").expect("written");
    let output = run(dir.path(), &["token", "--role", "viewer", "--tenant", "acme"]);
    assert_eq!(output.status.code(), Some(64), "{}", text(&output.stderr));
}

#[test]
fn check_config_reads_what_settings_name_and_warns_of_what_others_may_read() {
    let dir = tempfile::tempdir().expect("a folder");
    let secret = dir.path().join("idp.secret");
    fs::write(&secret, "a secret that is long enough for anybody\n").expect("written");
    let check = |issuers: &str| {
        let mut command = sluice(dir.path(), &["check-config"]);
        command.env("SLUICE__AUTH__ISSUERS", issuers).output().expect("started")
    };
    let good = r#"[{"issuer": "a", "audience": ["x"], "tenants": ["acme"], "keys": {"secret_file": "idp.secret"}}]"#;
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("mine");
    let output = check(good);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    assert!(text(&output.stdout).contains("secret_file = \"idp.secret\"") && !text(&output.stdout).contains("long enough"));
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).expect("mine");
    let output = check(good);
    let warning = "sluice: warning: `auth.issuers[0].keys.secret_file`: others may read `idp.secret` (mode 644); make it 0600\n";
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), warning));

    fs::write(dir.path().join("private.pem"), include_str!("../src/auth/testing/keys/rsa_a.pem")).expect("written");
    fs::write(dir.path().join("public.pem"), include_str!("../src/auth/testing/keys/rsa_a.pub")).expect("written");
    for (keys, algorithm, why) in [
        (
            r#"{"secret_file": "nowhere"}"#,
            "HS256",
            "`auth.issuers[0].keys.secret_file` is `nowhere`, which cannot be read",
        ),
        (r#"{"pem_file": "private.pem"}"#, "RS256", "it holds a private key"),
        (r#"{"pem_file": "public.pem"}"#, "ES256", "no key in it fits `algorithms`"),
        (r#"{"pem_file": "idp.secret"}"#, "RS256", "no usable key"),
        (r#"{"jwks_file": "public.pem"}"#, "RS256", "it is not JSON"),
        (r#"{"tenant_secrets_file": "public.pem"}"#, "HS256", "a JSON object, or a TOML table"),
        (r#"{"tenant_secrets": {"a": "the same", "b": "the same"}}"#, "HS256", "another tenant's secret"),
    ] {
        let output = check(&format!(
            r#"[{{"issuer": "a", "audience": [], "algorithms": ["{algorithm}"], "keys": {keys}}}]"#
        ));
        let error = text(&output.stderr);
        assert!(
            output.status.code() == Some(64) && error.contains(why) && !error.contains("the same"),
            "{keys}: {error}"
        );
    }
    for (issuer, warning) in [
        (
            r#"{"issuer": "a", "audience": [], "tenants": ["*"], "keys": {"jwks_url": "https://a/b"}}"#,
            "`auth.issuers[0].audience` is empty",
        ),
        (
            r#"{"issuer": "a", "audience": ["x"], "keys": {"jwks_url": "https://a/b"}}"#,
            "`auth.issuers[0].tenants` is not set",
        ),
        (
            r#"{"issuer": "a", "audience": ["x"], "tenants": ["*"], "keys": {"jwks_url": "http://a/b"}}"#,
            "jwks_url` is not https",
        ),
        (
            r#"{"issuer": "a", "audience": ["x"], "tenants": ["*"], "keys": {"secret": "short"}}"#,
            "is a short secret",
        ),
        (
            r#"{"issuer": "a", "audience": ["x"], "tenants": ["*"], "max_role": "viewer", "roles": {"boss": ["admin"]}, "keys": {"jwks_url": "https://a/b"}}"#,
            "maps `boss` to admin",
        ),
    ] {
        let output = check(&format!("[{issuer}]"));
        let error = text(&output.stderr);
        assert!(
            output.status.code() == Some(0) && error.lines().count() == 1 && error.contains(warning),
            "{issuer}: {error}"
        );
    }
}
