//! What the clients of AWS have in common: one configuration, and what their errors mean.
//!
//! Credentials, region and endpoint come by the ordinary chain (environment, profile, instance). The SDK's own retries are off: who
//! calls knows whether a repetition is harmless, counts what it costs, and must know whether a failed call may have taken effect.

#[cfg(any(feature = "sqs", feature = "kinesis"))]
mod failure;

#[cfg(any(feature = "sqs", feature = "kinesis"))]
pub use failure::{Failure, classify, is_about_credentials};

use aws_config::{BehaviorVersion, Region, SdkConfig, retry::RetryConfig, stalled_stream_protection::StalledStreamProtectionConfig, timeout::TimeoutConfig};
use aws_credential_types::Credentials;
use aws_smithy_http_client::{
    Builder,
    tls::{Provider, rustls_provider::CryptoMode},
};
use aws_types::service_config::ServiceConfigKey;
use std::time::Duration;

/// A peer that does not take a connection within this time is taken for dead: nothing was sent yet, so nothing is in doubt.
const CONNECT: Duration = Duration::from_secs(3);

/// What is set by hand instead of by the chain.
#[derive(Debug, Clone, Default)]
pub struct AwsSettings {
    /// Address of the service, for engines that are not AWS's.
    pub endpoint: Option<String>,
    /// Region.
    pub region: Option<String>,
    /// Key id and secret.
    pub keys: Option<(String, String)>,
}

/// The configuration for all clients. Reads files and the environment, and may ask the instance's metadata service.
pub async fn config(settings: &AwsSettings) -> SdkConfig {
    let http = Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http)
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT).build())
        // Every call is bounded in time by whoever makes it; a long poll is silent for as long as it should be.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    if let Some(endpoint) = &settings.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    if let Some(region) = &settings.region {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some((id, secret)) = &settings.keys {
        loader = loader.credentials_provider(Credentials::new(id, secret, None, None, "settings"));
    }
    loader.load().await
}

/// Whether the environment or the profile names an address for this service alone (`AWS_ENDPOINT_URL_<service>`).
pub fn has_endpoint(config: &SdkConfig, service: &str) -> bool {
    config.service_config().is_some_and(|settings| {
        let key = ServiceConfigKey::builder()
            .service_id(service)
            .env("AWS_ENDPOINT_URL")
            .profile("endpoint_url")
            .build();
        key.is_ok_and(|key| settings.load_config(key).is_some())
    })
}
