//! What the clients of AWS have in common: one configuration, and what their errors mean.
//!
//! Credentials, region and endpoint come by the ordinary chain (environment, profile, instance). The SDK's own retries are off: who
//! calls knows whether a repetition is harmless, counts what it costs, and must know whether a failed call may have taken effect.

use super::SendError;
use aws_config::{BehaviorVersion, Region, SdkConfig, retry::RetryConfig, stalled_stream_protection::StalledStreamProtectionConfig, timeout::TimeoutConfig};
#[cfg(not(feature = "sqs"))]
use aws_sdk_kinesis as sdk;
#[cfg(feature = "sqs")]
use aws_sdk_sqs as sdk;
use aws_smithy_http_client::{
    Builder,
    tls::{Provider, rustls_provider::CryptoMode},
};
use aws_types::service_config::ServiceConfigKey;
use sdk::{
    config::{Credentials, http::HttpResponse},
    error::{ProvideErrorMetadata, SdkError},
};
use std::{error::Error, time::Duration};

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

/// What a failed call means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// It certainly had no effect.
    pub definite: bool,
    /// The same call may work later.
    pub retry: bool,
    /// The engine's code, as `ThrottlingException`; empty when the engine did not answer.
    pub code: String,
    /// For people: code and message, no payload, no secrets.
    pub text: String,
}

impl Failure {
    /// A call that did not come back in time.
    pub fn elapsed() -> Self {
        Self {
            definite: false,
            retry: true,
            code: String::new(),
            text: "no answer in time".to_owned(),
        }
    }

    /// By the code of an answer or of one item of a batch. `fault`: the engine says that the caller is to blame.
    pub fn of_code(code: &str, message: Option<&str>, fault: bool) -> Self {
        let code = code.rsplit(['#', '.']).next().unwrap_or(code);
        let throttled = is_throttling(code);
        Self {
            definite: fault || throttled,
            retry: throttled || !fault,
            code: code.to_owned(),
            text: [code, message.unwrap_or_default()].join(": "),
        }
    }

    /// Whether a person must act: retrying alone does not help.
    pub fn is_lasting(&self) -> bool {
        !self.retry
    }
}

impl From<Failure> for SendError {
    fn from(failure: Failure) -> Self {
        Self {
            definite: failure.definite,
            retry: failure.retry,
            text: failure.text.into(),
        }
    }
}

/// Codes by which the services say "not now": nothing happened.
fn is_throttling(code: &str) -> bool {
    const OTHERS: [&str; 5] = [
        "TooManyRequestsException",
        "ProvisionedThroughputExceededException",
        "LimitExceededException",
        "OverLimit",
        "SlowDown",
    ];
    code.contains("Throttl") || OTHERS.contains(&code)
}

/// What the error of a call means.
pub fn classify<E>(error: &SdkError<E, HttpResponse>) -> Failure
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match error {
        SdkError::ServiceError(answer) => {
            let (status, meta) = (answer.raw().status().as_u16(), answer.err().meta());
            let code = meta.code().unwrap_or(if status == 429 { "TooManyRequestsException" } else { "" });
            let mut failure = Failure::of_code(code, meta.message(), status < 500);
            failure.text = format!("{} (status {status})", failure.text);
            failure
        }
        // Something went wrong before anything was sent, credentials among it.
        SdkError::ConstructionFailure(_) => Failure {
            definite: true,
            retry: true,
            code: String::new(),
            text: chain(error),
        },
        SdkError::DispatchFailure(failure) => {
            let connecting = failure.as_connector_error().is_some_and(|error| never_connected(error));
            Failure {
                definite: connecting || failure.is_user(),
                retry: !failure.is_user(),
                code: String::new(),
                text: chain(error),
            }
        }
        _ => Failure {
            definite: false,
            retry: true,
            code: String::new(),
            text: chain(error),
        },
    }
}

/// Whether the connection could not even be made: then nothing was sent.
fn never_connected(error: &(dyn Error + 'static)) -> bool {
    let mut source = Some(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<hyper_util::client::legacy::Error>() {
            return error.is_connect();
        }
        source = error.source();
    }
    false
}

/// The error with its causes, each once.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.contains(&next) {
            text = [text, next].join(": ");
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_say_whether_something_happened_and_whether_to_try_again() {
        for (code, fault, expected) in [
            ("AWS.SimpleQueueService.RequestThrottled", true, (true, true)),
            ("com.amazonaws.kinesis#ProvisionedThroughputExceededException", true, (true, true)),
            ("KmsThrottled", false, (true, true)),
            ("InternalFailure", false, (false, true)),
            ("InternalError", false, (false, true)),
            ("AccessDenied", true, (true, false)),
            ("AWS.SimpleQueueService.NonExistentQueue", true, (true, false)),
        ] {
            let failure = Failure::of_code(code, None, fault);
            assert_eq!((failure.definite, failure.retry), expected, "{code}");
            assert!(!failure.code.contains(['.', '#']), "{}", failure.code);
        }
        assert!(!Failure::elapsed().definite && Failure::elapsed().retry);
    }
}
