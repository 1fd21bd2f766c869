//! `[auth]`: reads issuers and the gateway, and names every mistake with key, value and rule. Values of secrets are never shown.

use super::{
    fields::{Fields, list_of, tables, texts},
    read::{Reader, shown},
};
use crate::{
    auth::{
        ALGORITHMS, Role, algorithm_named,
        claims::{ClaimName, ClaimNames, RoleMap, TenantBounds},
        issuer::Rules,
        keys::fetch::Source,
        settings::{AuthSettings, GatewaySettings, Hidden, IssuerSettings, KeySettings, Secret},
    },
    model::{filter::IpRange, tenant::TenantId},
};
use jsonwebtoken::{Algorithm, AlgorithmFamily};
use reqwest::Url;
use std::{collections::BTreeMap, path::PathBuf};
use toml::{Table, Value};

const ISSUERS: &str = "auth.issuers";
const CIDRS: &str = "auth.gateway.cidrs";
const MAX_ISSUERS: usize = 1000;

/// Reads the section.
pub fn auth(r: &mut Reader) -> AuthSettings {
    AuthSettings {
        issuers: issuers(r),
        gateway: gateway(r),
    }
}

fn gateway(r: &mut Reader) -> Option<GatewaySettings> {
    let enabled = r.flag("auth.gateway.enabled");
    let cidrs = r.list(CIDRS, "must be a list of networks, such as [\"10.0.0.0/8\"]", IpRange::parse);
    let secret = r.hidden("auth.gateway.secret").and_then(|text| Hidden::new(&text)).map(Secret::Given);
    let file = r.text("auth.gateway.secret_file", "must be a path", |text| Some(text.to_owned()));
    let file = file.filter(|path| !path.is_empty()).map(|path| Secret::File(path.into()));
    if !enabled {
        return None;
    }
    if cidrs.is_empty() {
        r.problem(CIDRS, "is empty, but `auth.gateway.enabled` needs the networks that gateways are in".to_owned());
    }
    let secret = match (secret, file) {
        (Some(secret), None) | (None, Some(secret)) => secret,
        (None, None) => {
            let rule = "is empty, and so is `auth.gateway.secret`, but `auth.gateway.enabled` needs one of them";
            r.problem("auth.gateway.secret_file", rule.to_owned());
            return None;
        }
        (Some(_), Some(_)) => {
            r.problem("auth.gateway.secret_file", "is set beside `auth.gateway.secret`; set one of them".to_owned());
            return None;
        }
    };
    Some(GatewaySettings { cidrs, secret })
}

fn issuers(r: &mut Reader) -> Vec<IssuerSettings> {
    const RULE: &str = "must be a list of issuers: `[[auth.issuers]]` in a file, a JSON list of objects in the environment";
    // More are a mistake; each token is compared with all of them.
    let Some(tables) = tables(r, ISSUERS, MAX_ISSUERS, RULE) else {
        return Vec::new();
    };
    let mut issuers = Vec::new();
    for (index, table) in tables.into_iter().enumerate() {
        if let Some(issuer) = issuer(r, format!("{ISSUERS}[{index}]"), table) {
            check_beside(r, index, &issuer, &issuers);
            issuers.push(issuer);
        }
    }
    r.keep(ISSUERS, Some(list_of(issuers.iter().map(in_force))));
    issuers
}

/// Two issuers must be told apart, by their names and by their tokens.
fn check_beside(r: &mut Reader, index: usize, issuer: &IssuerSettings, before: &[IssuerSettings]) {
    for other in before.iter().map(|other| &other.rules) {
        let (own, at) = (&issuer.rules, format!("{ISSUERS}[{index}]"));
        if own.name == other.name {
            r.problem(
                &format!("{at}.name"),
                format!("is `{}`, which another issuer has too; give each its own", own.name),
            );
        }
        let overlap = own.audience.is_empty() || other.audience.is_empty() || own.audience.iter().any(|aud| other.audience.contains(aud));
        if own.issuer == other.issuer && overlap {
            let message = format!(
                "is `{}` with an audience that `{}` has too: a token could be of either; give them different audiences",
                own.issuer.as_deref().unwrap_or_default(),
                other.name
            );
            r.problem(&format!("{at}.issuer"), message);
        }
    }
}

fn issuer(r: &mut Reader, at: String, table: Table) -> Option<IssuerSettings> {
    let mut f = Fields::new(r, at, table);
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let issuer = f.needed("issuer", "must be the `iss` of the tokens", some);
    let name = f.text("name", "must be a name of 1 to 100 characters", |text| {
        (1..=100).contains(&text.chars().count()).then(|| text.to_owned())
    });
    let audience = f.needed_list(
        "audience",
        "must be a list of texts; one of them must be in `aud`, and [] does not check it",
        some,
    );
    let keys = f.needed_section("keys", "it says how the tokens are signed").and_then(key_settings);
    let secrets = !matches!(keys, Some(KeySettings::PemFile(_) | KeySettings::Jwks(_)));
    let names = ALGORITHMS.map(|(name, _)| name).join(", ");
    let algorithms = f
        .list("algorithms", &format!("must be a list of some of {names}"), algorithm_named)
        .unwrap_or_else(|| vec![if secrets { Algorithm::HS256 } else { Algorithm::RS256 }]);
    if keys.is_some() {
        check_algorithms(&mut f, &algorithms, secrets);
    }
    let require_exp = f.flag("require_exp", true);
    let claims = f.section("claims").map_or_else(ClaimNames::default, claim_names);
    let allow_platform = f.flag("allow_platform", false);
    let mut roles = match f.take("roles") {
        None => RoleMap::standard(allow_platform),
        Some(value) => role_map(&mut f, value).unwrap_or_else(|| RoleMap::standard(false)),
    };
    roles.ignore_unknown = f.flag("ignore_unknown_roles", false);
    let max_role = f.text("max_role", "must be one of writer, viewer, auditor, admin, platform_admin", Role::named);
    if max_role == Some(Role::PlatformAdmin) && !allow_platform {
        f.wrong("max_role", "is `platform_admin`, which needs `allow_platform = true`".to_owned());
    }
    let tenants = tenant_bounds(&mut f);
    let tenants_open = tenants.is_none() && !matches!(keys, Some(KeySettings::TenantSecrets(_) | KeySettings::TenantSecretsFile(_)));
    let tenants = tenants.unwrap_or_else(|| match &keys {
        Some(KeySettings::TenantSecrets(secrets)) => TenantBounds::these(secrets.keys().cloned()),
        _ => TenantBounds::all(),
    });
    if !f.end() {
        return None;
    }
    let issuer = issuer?;
    Some(IssuerSettings {
        rules: Rules {
            name: name.unwrap_or_else(|| issuer.clone()).into(),
            issuer: Some(issuer),
            audience: audience?,
            algorithms,
            require_exp,
            claims,
            roles,
            tenants,
            max_role: max_role.unwrap_or(Role::Admin),
            allow_platform,
        },
        keys: keys?,
        tenants_open,
    })
}

/// With secrets HS, with public keys the others: so no public key can ever be taken for a secret.
fn check_algorithms(f: &mut Fields<'_>, algorithms: &[Algorithm], secrets: bool) {
    if algorithms.is_empty() {
        f.wrong("algorithms", "is empty: no token would ever be accepted".to_owned());
    }
    if let Some(wrong) = algorithms.iter().find(|a| (a.family() == AlgorithmFamily::Hmac) != secrets) {
        let rule = if secrets {
            "a secret checks HS256, HS384 and HS512 only"
        } else {
            "public keys check RS256, PS256, ES256 and EdDSA only"
        };
        f.wrong("algorithms", format!("has {wrong:?}, but {rule}"));
    }
}

fn claim_names(mut f: Fields<'_>) -> ClaimNames {
    let default = ClaimNames::default();
    let mut named = |name, default| f.text(name, "must be a claim's name, or a path with dots", ClaimName::new).unwrap_or(default);
    let names = ClaimNames {
        tenant: named("tenant", default.tenant),
        role: named("role", default.role),
        subject: named("subject", default.subject),
    };
    f.end();
    names
}

fn role_map(f: &mut Fields<'_>, value: Value) -> Option<RoleMap> {
    const RULE: &str = "must be a table of names and roles, such as {Operator = [\"writer\", \"viewer\"]}, with names that differ in more than case";
    let Value::Table(table) = value else {
        f.wrong("roles", RULE.to_owned());
        return None;
    };
    let mut map = Vec::new();
    for (name, value) in table {
        let roles: Option<Vec<Role>> = match texts(&value) {
            Some(names) if !names.is_empty() => names.iter().map(|name| Role::named(name)).collect(),
            _ => None,
        };
        match roles {
            Some(roles) => map.push((name, roles)),
            None => f.wrong(
                &format!("roles.{name}"),
                format!(
                    "is `{}`: must be a list of some of writer, viewer, auditor, admin, platform_admin",
                    shown(&value)
                ),
            ),
        }
    }
    let map = RoleMap::own(map);
    if map.is_none() {
        f.wrong("roles", RULE.to_owned());
    }
    map
}

fn tenant_bounds(f: &mut Fields<'_>) -> Option<TenantBounds> {
    let rule = "must be a list of tenant ids, prefixes such as \"globex-*\", or \"*\"";
    let list = f.list("tenants", rule, |text| Some(text.to_owned()))?;
    let bounds = TenantBounds::parse(list.iter().map(String::as_str));
    match bounds {
        Ok(_) if list.is_empty() => f.wrong("tenants", format!("is empty: it {rule}")),
        Ok(bounds) => return Some(bounds),
        Err(text) => f.wrong("tenants", format!("has `{}`: it {rule}", shown(&text.into()))),
    }
    None
}

fn key_settings(mut f: Fields<'_>) -> Option<KeySettings> {
    const NAMES: &str = "secret, secret_file, tenant_secrets, tenant_secrets_file, pem_file, jwks_file, jwks_url";
    let path = |text: &str| (!text.is_empty() && !text.contains('\0')).then(|| PathBuf::from(text));
    let mut found = Vec::new();
    if let Some(value) = f.take("secret") {
        match value.as_str().and_then(Hidden::new) {
            Some(secret) => found.push(KeySettings::Secret(Secret::Given(secret))),
            None => f.wrong("secret", "must be a text that is not empty and not `…`".to_owned()),
        }
    }
    found.extend(
        f.text("secret_file", "must be a path", path)
            .map(|path| KeySettings::Secret(Secret::File(path))),
    );
    if let Some(value) = f.take("tenant_secrets") {
        found.extend(tenant_secrets(&mut f, value));
    }
    found.extend(f.text("tenant_secrets_file", "must be a path", path).map(KeySettings::TenantSecretsFile));
    found.extend(f.text("pem_file", "must be a path", path).map(KeySettings::PemFile));
    found.extend(f.text("jwks_file", "must be a path", path).map(|path| KeySettings::Jwks(Source::File(path))));
    let rule = "must be an http or https URL without a user or a password in it";
    let url = f.text("jwks_url", rule, |text| {
        let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())?;
        (url.username().is_empty() && url.password().is_none()).then_some(url)
    });
    found.extend(url.map(|url| KeySettings::Jwks(Source::Url(url))));
    let at = f.at.clone();
    let several = found.len() > 1;
    if f.good && (several || found.is_empty()) {
        f.reader
            .problem(&at, format!("must be one of {NAMES}{}", if several { ", and there are several" } else { "" }));
        f.good = false;
    }
    f.end().then(|| found.pop()).flatten()
}

fn tenant_secrets(f: &mut Fields<'_>, value: Value) -> Option<KeySettings> {
    let Some(table) = value.as_table().filter(|table| !table.is_empty()) else {
        f.wrong("tenant_secrets", "must be a table of tenant ids and secrets".to_owned());
        return None;
    };
    let mut secrets = BTreeMap::new();
    for (id, secret) in table {
        match (TenantId::parse(id), secret.as_str().and_then(Hidden::new)) {
            (Ok(id), Some(secret)) => drop(secrets.insert(id, secret)),
            (Err(rule), _) => f.wrong("tenant_secrets", format!("has `{}`: {rule}", shown(&id.as_str().into()))),
            (_, None) => f.wrong(&format!("tenant_secrets.{id}"), "must be a text that is not empty and not `…`".to_owned()),
        }
    }
    Some(KeySettings::TenantSecrets(secrets))
}

/// What is in force for an issuer, without its secrets.
fn in_force(issuer: &IssuerSettings) -> Value {
    let rules = &issuer.rules;
    let texts = |texts: &[String]| list_of(texts.iter().cloned());
    let names = |roles: &[Role]| list_of(roles.iter().map(|role| role.name()));
    let mut table = Table::new();
    let mut set = |name: &str, value: Value| drop(table.insert(name.to_owned(), value));
    set("name", Value::from(&*rules.name));
    set("issuer", rules.issuer.clone().unwrap_or_default().into());
    set("audience", texts(&rules.audience));
    set("algorithms", list_of(rules.algorithms.iter().map(|a| format!("{a:?}"))));
    set("require_exp", rules.require_exp.into());
    let claims = [
        ("tenant", &rules.claims.tenant),
        ("role", &rules.claims.role),
        ("subject", &rules.claims.subject),
    ];
    set(
        "claims",
        claims
            .into_iter()
            .map(|(name, claim)| (name, claim.as_str()))
            .collect::<BTreeMap<_, _>>()
            .into(),
    );
    let roles: BTreeMap<String, Value> = rules.roles.names().map(|(name, roles)| (name.to_owned(), names(roles))).collect();
    if !roles.is_empty() {
        set("roles", roles.into());
    }
    set("ignore_unknown_roles", rules.roles.ignore_unknown.into());
    set("tenants", list_of(rules.tenants.texts()));
    set("max_role", rules.max_role.name().into());
    set("allow_platform", rules.allow_platform.into());
    let path = |path: &PathBuf| Value::from(path.display().to_string());
    let (name, value) = match &issuer.keys {
        KeySettings::Secret(Secret::Given(_)) => ("secret", "…".into()),
        KeySettings::Secret(Secret::File(file)) => ("secret_file", path(file)),
        KeySettings::TenantSecrets(secrets) => {
            let hidden: BTreeMap<String, &str> = secrets.keys().map(|id| (id.to_string(), "…")).collect();
            ("tenant_secrets", hidden.into())
        }
        KeySettings::TenantSecretsFile(file) => ("tenant_secrets_file", path(file)),
        KeySettings::PemFile(file) => ("pem_file", path(file)),
        KeySettings::Jwks(Source::File(file)) => ("jwks_file", path(file)),
        KeySettings::Jwks(Source::Url(url)) => ("jwks_url", url.as_str().into()),
    };
    set("keys", BTreeMap::from([(name, value)]).into());
    Value::Table(table)
}
