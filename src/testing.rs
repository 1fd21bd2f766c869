//! What unit tests of several modules need: where the real engines are, and a proxy before them that misbehaves.

#[path = "../tests/it/harness/proxy.rs"]
pub mod proxy;

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
