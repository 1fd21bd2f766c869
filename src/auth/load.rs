//! Reads what the settings name: secrets and keys in files. Says everything that is wrong at once, and what is right but unwise.

use super::{
    Gateway,
    issuer::{Issuer, Rules},
    keys::{
        KeySet, Keys, SecretKey,
        fetch::{Fetched, Pace, Source, is_loopback},
        jwks, pem,
    },
    settings::{AuthSettings, GatewaySettings, Hidden, IssuerSettings, KeySettings, Secret},
};
use crate::model::{filter::IpRange, tenant::TenantId};
use jsonwebtoken::Algorithm;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::Path,
};

/// Shorter secrets can be guessed from one token (RFC 7518 asks for as many bits as the hash has).
const WISE_SECRET: usize = 32;
/// A file of secrets or keys is small.
const MAX_FILE: u64 = 4 << 20;

/// Issuers and gateway with their keys.
#[derive(Default)]
pub struct Loaded {
    issuers: Vec<(Rules, LoadedKeys)>,
    gateway: Option<(Vec<IpRange>, Vec<u8>)>,
    /// What works, but should not stay so: one line each.
    pub warnings: Vec<String>,
}

enum LoadedKeys {
    Ready(Keys),
    /// To be fetched; what was read of a file already.
    Fetch(Source, Option<KeySet>),
}

/// A setting that is wrong: its key, and what is wrong with it.
pub type Wrong = (String, String);

/// Reads everything. Blocks.
pub fn load(settings: &AuthSettings) -> Result<Loaded, Vec<Wrong>> {
    let (mut loaded, mut wrong) = (Loaded::default(), Vec::new());
    for (index, issuer) in settings.issuers.iter().enumerate() {
        let at = format!("auth.issuers[{index}]");
        loaded.warn_of(issuer, &at);
        match loaded.keys(issuer, &format!("{at}.keys")) {
            Ok(keys) => loaded.issuers.push((issuer.rules.clone(), keys)),
            Err(one) => wrong.push(one),
        }
    }
    if let Some(GatewaySettings { cidrs, secret }) = &settings.gateway {
        match loaded.secret(secret, "auth.gateway") {
            Ok(secret) => loaded.gateway = Some((cidrs.clone(), secret)),
            Err(one) => wrong.push(one),
        }
    }
    if wrong.is_empty() { Ok(loaded) } else { Err(wrong) }
}

impl Loaded {
    /// The issuers and the gateway; begins to fetch keys. Must be called inside a tokio runtime.
    pub fn start(self) -> (Vec<Issuer>, Option<Gateway>) {
        let issuers = self.issuers.into_iter().map(|(rules, keys)| Issuer {
            keys: match keys {
                LoadedKeys::Ready(keys) => keys,
                LoadedKeys::Fetch(source, first) => Keys::Fetched(Fetched::start(rules.name.clone(), source, first, Pace::default())),
            },
            rules,
        });
        (issuers.collect(), self.gateway.map(|(cidrs, secret)| Gateway::new(cidrs, &secret)))
    }

    fn warn_of(&mut self, issuer: &IssuerSettings, at: &str) {
        let rules = &issuer.rules;
        if rules.audience.is_empty() {
            self.warnings.push(format!(
                "`{at}.audience` is empty: tokens that `{}` made for others are accepted too",
                rules.name
            ));
        }
        if issuer.tenants_open {
            self.warnings
                .push(format!("`{at}.tenants` is not set: `{}` may speak for every tenant", rules.name));
        }
        for (name, roles) in rules.roles.names() {
            if let Some(role) = roles.iter().find(|role| !rules.may_give(**role)) {
                self.warnings.push(format!(
                    "`{at}.roles` maps `{name}` to {}, which `max_role` and `allow_platform` do not let it give: such tokens are refused",
                    role.name()
                ));
            }
        }
        if let KeySettings::Jwks(Source::Url(url)) = &issuer.keys
            && url.scheme() == "http"
            && !is_loopback(url)
        {
            self.warnings.push(format!(
                "`{at}.keys.jwks_url` is not https: whoever is on the way can give itself every role that `{}` may give",
                rules.name
            ));
        }
    }

    fn keys(&mut self, issuer: &IssuerSettings, at: &str) -> Result<LoadedKeys, Wrong> {
        Ok(match &issuer.keys {
            KeySettings::Secret(secret) => LoadedKeys::Ready(Keys::Secret(SecretKey::new(&self.secret(secret, at)?))),
            KeySettings::TenantSecrets(secrets) => LoadedKeys::Ready(self.tenants(secrets, &format!("{at}.tenant_secrets"))?),
            KeySettings::TenantSecretsFile(path) => {
                let key = format!("{at}.tenant_secrets_file");
                let text = secret_file(path, &key, &mut self.warnings)?;
                let secrets = secrets_of(&text).map_err(|why| (key.clone(), format!("is `{}`: {why}", path.display())))?;
                LoadedKeys::Ready(self.tenants(&secrets, &key)?)
            }
            KeySettings::PemFile(path) => {
                let key = format!("{at}.pem_file");
                let bad = |why: &str| (key.clone(), format!("is `{}`: {why}", path.display()));
                let text = String::from_utf8(read(path, &key)?).map_err(|_| bad("it is no PEM file"))?;
                let keys = pem::parse(&text).map_err(|why| bad(why.0))?;
                all_fit(&keys, &issuer.rules.algorithms).map_err(|why| bad(&why))?;
                LoadedKeys::Ready(Keys::Fixed(keys))
            }
            KeySettings::Jwks(Source::File(path)) => {
                let key = format!("{at}.jwks_file");
                let keys = jwks::parse(&read(path, &key)?).map_err(|why| (key, format!("is `{}`: {why}", path.display())))?;
                LoadedKeys::Fetch(Source::File(path.clone()), Some(keys))
            }
            KeySettings::Jwks(source) => LoadedKeys::Fetch(source.clone(), None),
        })
    }

    fn secret(&mut self, secret: &Secret, at: &str) -> Result<Vec<u8>, Wrong> {
        let (key, text) = match secret {
            Secret::Given(text) => (format!("{at}.secret"), text.reveal().to_owned()),
            Secret::File(path) => {
                let key = format!("{at}.secret_file");
                let text = secret_file(path, &key, &mut self.warnings)?;
                (key, text)
            }
        };
        if text.len() < WISE_SECRET {
            self.warnings.push(format!(
                "`{key}` is a short secret: less than {WISE_SECRET} bytes can be guessed from one token"
            ));
        }
        Ok(text.into_bytes())
    }

    fn tenants(&mut self, secrets: &BTreeMap<TenantId, Hidden>, key: &str) -> Result<Keys, Wrong> {
        let mut seen = HashSet::new();
        if let Some((tenant, _)) = secrets.iter().find(|(_, secret)| !seen.insert(secret.reveal())) {
            let rule = "has another tenant's secret: whoever knows it could speak for both; give each tenant its own";
            return Err((format!("{key}.{tenant}"), rule.to_owned()));
        }
        let short = secrets.values().filter(|secret| secret.reveal().len() < WISE_SECRET).count();
        if short > 0 {
            self.warnings.push(format!(
                "`{key}`: {short} of the secrets are short: less than {WISE_SECRET} bytes can be guessed from one token"
            ));
        }
        let mut decoy = [0; WISE_SECRET];
        getrandom::fill(&mut decoy).map_err(|e| (key.to_owned(), format!("cannot be used: the system has no random numbers ({e})")))?;
        let secrets: HashMap<_, _> = secrets
            .iter()
            .map(|(id, secret)| (id.clone(), SecretKey::new(secret.reveal().as_bytes())))
            .collect();
        Ok(Keys::Tenants {
            secrets,
            decoy: SecretKey::new(&decoy),
        })
    }
}

/// The text of a secret file, without white space around it; `key` is the setting that names it. Warns when others may read it. Blocks.
pub fn secret_file(path: &Path, key: &str, warnings: &mut Vec<String>) -> Result<String, Wrong> {
    let bytes = read(path, key)?;
    if let Ok(mode) = fs::metadata(path).map(|m| m.permissions().mode())
        && mode & 0o077 != 0
    {
        warnings.push(format!("`{key}`: others may read `{}` (mode {:o}); make it 0600", path.display(), mode & 0o777));
    }
    let text = String::from_utf8(bytes).map_err(|_| (key.to_owned(), format!("is `{}`, which is not UTF-8", path.display())))?;
    let text = text.trim();
    if text.is_empty() {
        return Err((key.to_owned(), format!("is `{}`, which is empty", path.display())));
    }
    Ok(text.to_owned())
}

fn read(path: &Path, key: &str) -> Result<Vec<u8>, Wrong> {
    let wrong = |why: &dyn std::fmt::Display| (key.to_owned(), format!("is `{}`, which cannot be read: {why}", path.display()));
    let file = fs::File::open(path).map_err(|e| wrong(&e))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|e| wrong(&e))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(wrong(&"it is larger than 4 MiB"));
    }
    Ok(bytes)
}

/// Every algorithm needs a key, and every key an algorithm: else a token could not be what the configuration says.
fn all_fit(keys: &KeySet, algorithms: &[Algorithm]) -> Result<(), String> {
    if let Some(algorithm) = algorithms.iter().find(|a| !keys.keys().iter().any(|key| key.fits(**a))) {
        return Err(format!("no key in it fits `algorithms`, which has {algorithm:?}"));
    }
    if let Some(key) = keys.keys().iter().find(|key| !algorithms.iter().any(|a| key.fits(*a))) {
        return Err(format!("it holds a key of the kind {:?}, which fits none of `algorithms`", key.kind()));
    }
    Ok(())
}

/// A JSON object or a TOML table of tenant and secret.
fn secrets_of(text: &str) -> Result<BTreeMap<TenantId, Hidden>, &'static str> {
    const RULE: &str = "it must be a JSON object, or a TOML table, of tenant ids and secrets, each secret a text that is not empty";
    let texts: BTreeMap<String, String> = match text.starts_with('{') {
        true => serde_json::from_str(text).map_err(|_| RULE)?,
        false => toml::from_str(text).map_err(|_| RULE)?,
    };
    if texts.is_empty() {
        return Err(RULE);
    }
    let secret = |(id, secret): (String, String)| Some((TenantId::parse(&id).ok()?, Hidden::new(&secret)?));
    texts.into_iter().map(secret).collect::<Option<_>>().ok_or(RULE)
}
