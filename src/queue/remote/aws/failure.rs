//! What a failed call to AWS means: whether it may have taken effect, whether it is worth another try, and for how long.

use crate::queue::remote::SendError;
#[cfg(not(feature = "sqs"))]
use aws_sdk_kinesis as sdk;
#[cfg(feature = "sqs")]
use aws_sdk_sqs as sdk;
use sdk::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};
use std::error::Error;

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

/// Codes by which the services say that they do not know who calls.
pub fn is_about_credentials(code: &str) -> bool {
    const CODES: [&str; 11] = [
        "InvalidClientTokenId",
        "UnrecognizedClientException",
        "SignatureDoesNotMatch",
        "InvalidSecurity",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "IncompleteSignature",
        "NotAuthorized",
    ];
    CODES.contains(&code)
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
