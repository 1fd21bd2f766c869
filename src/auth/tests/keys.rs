//! Public keys from PEM files and key sets.

use crate::auth::{
    keys::{Checked, KeySet, Kind, jwks, pem},
    testing::{EC_A, ED_A, RSA_A, RSA_B, jwk, jwks as set, sign},
    token::Token,
};
use jsonwebtoken::Algorithm::{self, *};
use serde_json::{Value, json};

const RSA_PUB: &str = crate::auth::testing::RSA_A_PUB;
const RSA_PKCS1: &str = crate::auth::testing::RSA_A_PKCS1;
const RSA_CRT: &str = crate::auth::testing::RSA_A_CRT;
const RSA_B_PUB: &str = crate::auth::testing::RSA_B_PUB;
const EC_PUB: &str = crate::auth::testing::EC_A_PUB;
const EC_CRT: &str = crate::auth::testing::EC_A_CRT;
const ED_PUB: &str = crate::auth::testing::ED_A_PUB;
const P384: &str = crate::auth::testing::P384_PUB;
const WEAK: &str = crate::auth::testing::RSA_1024_PUB;

fn check(keys: &KeySet, algorithm: Algorithm, kid: Option<&str>, key: &str) -> Checked {
    let text = sign(algorithm, kid, key, &json!({"sub": "ann"}));
    keys.check(&Token::parse(&text).expect("a token"))
}

fn is_good(checked: Checked) -> bool {
    matches!(checked, Checked::Good(_))
}

#[test]
fn every_kind_of_pem_file_checks_what_its_key_signs_and_nothing_else() {
    let table = [
        (RSA_PUB, Kind::Rsa, RSA_A),
        (RSA_PKCS1, Kind::Rsa, RSA_A),
        (RSA_CRT, Kind::Rsa, RSA_A),
        (EC_PUB, Kind::P256, EC_A),
        (EC_CRT, Kind::P256, EC_A),
        (ED_PUB, Kind::Ed25519, ED_A),
    ];
    let signed = [(RS256, RSA_A), (PS256, RSA_A), (ES256, EC_A), (EdDSA, ED_A), (RS256, RSA_B)];
    for (text, kind, private) in table {
        let keys = pem::parse(text).expect("a key");
        assert_eq!(keys.keys().len(), 1);
        assert_eq!(keys.keys()[0].kind(), kind);
        for (algorithm, by) in signed {
            let good = by == private && kind.takes(algorithm);
            assert_eq!(is_good(check(&keys, algorithm, Some("whatever"), by)), good, "{kind:?} {algorithm:?}");
        }
        // The text of the public key as a secret: the oldest trick.
        for algorithm in [HS256, HS384, HS512] {
            assert_eq!(check(&keys, algorithm, None, text), Checked::NoKey, "{algorithm:?}");
        }
    }
    let both = pem::parse(&format!("a comment\n{RSA_PUB}\n{RSA_B_PUB}")).expect("two keys");
    assert!(is_good(check(&both, RS256, None, RSA_A)) && is_good(check(&both, RS256, None, RSA_B)));
}

#[test]
fn a_pem_file_without_a_usable_public_key_is_refused_with_the_reason() {
    for (text, why) in [
        ("", "no usable key"),
        ("hello", "no usable key"),
        (RSA_A, "private key"),
        (EC_A, "private key"),
        (P384, "P-256"),
        (WEAK, "2048 to 8192 bits"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no public key"),
        ("-----BEGIN PUBLIC KEY-----", "no public key"),
        ("-----BEGIN ", "no public key"),
        (&RSA_PUB[..RSA_PUB.len() / 2], "no public key"),
        (&RSA_PUB.repeat(65), "more than 64"),
    ] {
        let error = pem::parse(text).err().unwrap_or_else(|| panic!("taken: {text}"));
        assert!(error.0.contains(why), "{text}: {error}");
    }
}

#[test]
fn a_key_set_checks_by_name_kind_and_purpose() {
    let rsa = jwk(RS256, Some("r"), RSA_A);
    let with = |name: &str, value: Value| {
        let mut key = rsa.clone();
        key[name] = value;
        set(&[key])
    };
    let keys = |text: &str| jwks::parse(text.as_bytes());
    let all = keys(&set(&[rsa.clone(), jwk(ES256, Some("e"), EC_A), jwk(EdDSA, Some("d"), ED_A)])).expect("three keys");
    for (algorithm, kid, by, want) in [
        (RS256, Some("r"), RSA_A, "good"),
        (RS256, None, RSA_A, "good"),
        (ES256, Some("e"), EC_A, "good"),
        (EdDSA, Some("d"), ED_A, "good"),
        (RS256, Some("r"), RSA_B, "forged"),
        (RS256, Some("x"), RSA_A, "no key"),
        (RS256, Some("e"), RSA_A, "no key"),
        (RS256, None, RSA_B, "no key"),
        // The set says that this key is for RS256.
        (PS256, Some("r"), RSA_A, "no key"),
    ] {
        let got = match check(&all, algorithm, kid, by) {
            Checked::Good(_) => "good",
            Checked::Forged => "forged",
            Checked::NoKey => "no key",
        };
        assert_eq!(got, want, "{algorithm:?} {kid:?}");
    }
    let unnamed = keys(&set(&[jwk(RS256, None, RSA_A), jwk(RS256, None, RSA_B)])).expect("two keys");
    assert!(is_good(check(&unnamed, RS256, Some("any"), RSA_B)) && is_good(check(&unnamed, RS256, None, RSA_A)));

    for text in [
        with("use", json!("enc")),
        with("key_ops", json!(["encrypt"])),
        with("alg", json!("RSA-OAEP")),
        with("alg", json!("HS256")),
        with("kty", json!("oct")),
        with("e", json!("AA")),
        with("e", json!("AQ")),
        with("n", json!("AQAB")),
        with("n", json!(5)),
        with("n", json!("A".repeat(8 * 1024))),
        set(&[json!({"kty": "oct", "k": "c2VjcmV0"})]),
        set(&[json!({"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA"})]),
        set(&[json!({"kty": "EC", "crv": "P-256", "x": "A".repeat(43), "y": "A".repeat(43)})]),
        set(&[json!({"kty": "EC", "crv": "P-521", "x": "A".repeat(43), "y": "A".repeat(43)})]),
        set(&[json!({"kty": "OKP", "crv": "Ed25519", "x": "AAAA"})]),
        set(&[json!(null), json!(1), json!([])]),
        set(&[]),
        "{}".to_owned(),
        "[]".to_owned(),
        "null".to_owned(),
        String::new(),
        "[".repeat(100_000),
        format!("{}{}", " ".repeat(1 << 20), set(std::slice::from_ref(&rsa))),
        set(&vec![rsa.clone(); 65]),
    ] {
        assert!(keys(&text).is_err(), "{}", text.chars().take(200).collect::<String>());
    }
    assert!(keys(&with("key_ops", json!(["verify"]))).is_ok());
    let beside = keys(&set(&[json!({"kty": "EC", "crv": "P-384", "kid": "z"}), rsa])).expect("what is not for us is passed over");
    assert_eq!(beside.keys().len(), 1);
}
