//! ferrokinesis on 127.0.0.1:KINESIS_PORT. Its one argument, a folder, only says whose process it is.

use ferrokinesis::{create_app, store::StoreOptions};

fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

#[tokio::main]
async fn main() {
    const STATE_MS: u64 = 50;
    let (app, _store) = create_app(StoreOptions {
        create_stream_ms: STATE_MS,
        delete_stream_ms: STATE_MS,
        update_stream_ms: STATE_MS,
        shard_limit: setting("KINESIS_SHARD_LIMIT", 1000),
        enforce_limits: setting("KINESIS_ENFORCE_LIMITS", false),
        iterator_ttl_seconds: setting("KINESIS_ITERATOR_TTL_SECS", 300),
        ..Default::default()
    });
    let app = app.layer(axum::extract::DefaultBodyLimit::max(16 << 20));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", setting("KINESIS_PORT", 4567u16)))
        .await
        .expect("the port is free");
    axum::serve(listener, app).await.expect("it serves");
}
