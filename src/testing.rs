//! What unit tests of several modules need: where the real engines are, and a proxy before them that misbehaves.

#[path = "../tests/it/harness/proxy.rs"]
pub mod proxy;

/// The seeds of a test that tells many stories: 0 to `usual` − 1, or as many as `SLUICE_SEEDS` says; `SLUICE_SEED` tells one again.
///
/// # Panics
/// If one of them is set to something that is no number.
pub fn seeds(usual: u64) -> std::ops::Range<u64> {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().unwrap_or_else(|_| panic!("`{name}` is no number")))
    };
    match number("SLUICE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SLUICE_SEEDS").unwrap_or(usual),
    }
}

/// Addresses of the real engines that `make test-engines` starts.
pub mod engines {
    /// The address in the environment variable `name` (`SLUICE_TEST_CLICKHOUSE`, `SLUICE_TEST_SQS` …). `None`, with a word on
    /// standard error, where it is not set: the test then returns. Where `CI` is set too, leaving a test out is an error.
    ///
    /// # Panics
    /// If `name` is not set and `CI` is.
    pub fn address(name: &str) -> Option<String> {
        let address = std::env::var(name).ok().filter(|address| !address.is_empty());
        if address.is_none() {
            assert!(
                std::env::var_os("CI").is_none(),
                "`{name}` is not set: `make test-engines` starts the engines and sets it"
            );
            eprintln!("left out: `{name}` is not set (make test-engines starts it)");
        }
        address
    }
}

/// The AWS client's side of the engines that speak its protocols.
#[cfg(feature = "s3")]
pub mod aws {
    use aws_config::{BehaviorVersion, SdkConfig};
    use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
    use hmac::{Hmac, KeyInit, Mac};
    use sha2::{Digest, Sha256};

    /// The configuration that the ordinary chain gives, for one endpoint.
    pub async fn config(endpoint: &str) -> SdkConfig {
        let _ = rustls::crypto::ring::default_provider().install_default(); // fails when it was installed before
        let client = aws_smithy_http_client::Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .build_https();
        aws_config::defaults(BehaviorVersion::latest())
            .http_client(client)
            .endpoint_url(endpoint)
            .load()
            .await
    }

    /// Makes a bucket of a new name. Signed by hand (AWS Signature Version 4), because the product itself never makes one.
    pub async fn make_bucket(endpoint: &str) -> String {
        let bucket = format!("sluice-{}", uuid::Uuid::new_v4().simple());
        let var = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("`{name}` is set where an engine's address is"));
        let (access, secret, region) = (var("AWS_ACCESS_KEY_ID"), var("AWS_SECRET_ACCESS_KEY"), var("AWS_REGION"));
        let now = chrono::Utc::now();
        let (stamp, day) = (now.format("%Y%m%dT%H%M%SZ").to_string(), now.format("%Y%m%d").to_string());
        let host = endpoint.trim_start_matches("http://").trim_end_matches('/');
        let headers = format!("host:{host}\nx-amz-content-sha256:UNSIGNED-PAYLOAD\nx-amz-date:{stamp}\n");
        let signed = "host;x-amz-content-sha256;x-amz-date";
        let request = format!("PUT\n/{bucket}\n\n{headers}\n{signed}\nUNSIGNED-PAYLOAD");
        let scope = format!("{day}/{region}/s3/aws4_request");
        let to_sign = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{}", hex(&Sha256::digest(request)));
        let sign = |key: &[u8], text: &str| {
            let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("keys of any length are good");
            mac.update(text.as_bytes());
            mac.finalize().into_bytes().to_vec()
        };
        let key = [&region, "s3", "aws4_request"]
            .iter()
            .fold(sign(format!("AWS4{secret}").as_bytes(), &day), |key, text| sign(&key, text));
        let signature = hex(&sign(&key, &to_sign));
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let answer = client
            .put(format!("{}/{bucket}", endpoint.trim_end_matches('/')))
            .header("x-amz-content-sha256", "UNSIGNED-PAYLOAD")
            .header("x-amz-date", stamp)
            .header(
                "authorization",
                format!("AWS4-HMAC-SHA256 Credential={access}/{scope}, SignedHeaders={signed}, Signature={signature}"),
            )
            .send()
            .await
            .expect("the engine answers");
        assert!(answer.status().is_success(), "{}", answer.status());
        bucket
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }
}
