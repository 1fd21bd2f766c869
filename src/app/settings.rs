//! Settings as each module wants them.

use crate::{
    actors::{ActorSettings, sequencer::SequencerSettings},
    catalog::RateLimit,
    config::{QueueChoice, Settings},
    http::{origin::Origins, settings::HttpSettings, tls::Tls},
    lifecycle::{access_log::AccessLogSettings, export::ExportSettings},
    limits::LimitSettings,
    queue::{
        embedded::{QueueSettings, book::Limits},
        remote::{consumer::ConsumerSettings, gather::Linger, producer::ProducerSettings},
        seals::SealsSettings,
    },
};
use std::time::Duration;

/// The export jobs.
pub fn exports(settings: &Settings) -> ExportSettings {
    let s = &settings.exports;
    ExportSettings {
        jobs: s.jobs,
        queue: s.queue,
        per_tenant: s.per_tenant,
        keep: s.keep,
        ..ExportSettings::default()
    }
}

/// The embedded queue.
pub fn queue(settings: &Settings) -> QueueSettings {
    let defaults = QueueSettings::default();
    let limits = Limits {
        undecided_bytes: settings.wal.undecided_bytes as u64,
        undecided_tenant_bytes: settings.wal.undecided_tenant_bytes as u64,
        ..defaults.limits
    };
    QueueSettings {
        limits,
        segment_bytes: settings.wal.segment_bytes,
        ..defaults
    }
}

/// The sequencer of a partition.
pub fn sequencer(settings: &Settings) -> SequencerSettings {
    SequencerSettings {
        seal_bytes: settings.seal.target_bytes,
        window_bytes: settings.seal.window_bytes,
        seal_interval: settings.seal.interval,
        clock_skew: settings.seal.clock_skew,
        ..SequencerSettings::default()
    }
}

/// The access log.
pub fn access_log(settings: &Settings) -> AccessLogSettings {
    let s = &settings.access_log;
    AccessLogSettings {
        memory_bytes: s.memory_bytes,
        tenant_bytes: s.memory_bytes / 8,
        linger: s.linger,
    }
}

/// The tenant actors of a partition.
pub fn actors(settings: &Settings) -> ActorSettings {
    let s = &settings.actors;
    ActorSettings {
        shards: s.shards,
        idle_after: s.idle_after,
        memory_bytes: s.memory_bytes,
        tenant_bytes: s.tenant_bytes,
        batch_bytes: s.batch_bytes,
        batch_linger: s.batch_linger,
        ..ActorSettings::default()
    }
}

fn limits(settings: &Settings) -> LimitSettings {
    let s = &settings.limits;
    let unless_zero = |n: u64| (n > 0).then_some(n);
    LimitSettings {
        tenant: RateLimit {
            entries_per_second: unless_zero(s.entries_per_second),
            bytes_per_second: unless_zero(s.bytes_per_second),
            burst: unless_zero(s.burst),
        },
        ceiling: s.ceiling,
        tenant_max_entries: s.tenant_max_entries,
        unauthenticated_per_minute: s.unauthenticated_per_minute,
        unauthenticated_burst: s.unauthenticated_burst,
        logins_per_minute: s.logins_per_minute,
    }
}

/// The HTTP surface.
pub fn http(settings: &Settings, tls: Option<Tls>) -> HttpSettings {
    let s = &settings.http;
    HttpSettings {
        max_body_bytes: s.max_body_bytes,
        max_entries: s.max_entries,
        body_memory_bytes: s.body_memory_bytes,
        body_memory_tenant_bytes: s.body_memory_tenant_bytes,
        body_idle: s.body_idle,
        limits: limits(settings),
        max_connections: s.max_connections,
        header_timeout: s.header_timeout,
        write_stall: s.write_stall,
        tls,
        hsts: s.hsts,
        origins: Origins::new(s.cors_origins.clone()).with_ambient(settings.auth.gateway.is_some()),
        ..HttpSettings::default()
    }
}

/// Seals as objects.
pub fn seals(settings: &Settings) -> SealsSettings {
    let s = &settings.seal;
    SealsSettings {
        max_backlog: s.max_backlog,
        clock_skew: s.clock_skew,
        ..SealsSettings::default()
    }
}

/// The accepting side of a shared queue.
pub fn producer(settings: &Settings) -> ProducerSettings {
    let usual = ProducerSettings::default();
    let linger = match &settings.engines.queue {
        QueueChoice::Wal => return usual,
        QueueChoice::Sqs(sqs) => sqs.linger,
        QueueChoice::Kinesis(kinesis) => kinesis.linger,
    };
    ProducerSettings {
        linger: Linger {
            shortest: linger,
            longest: usual.linger.longest.max(linger),
        },
        ..usual
    }
}

/// What a stop keeps for everything but a long poll in hand.
const REST_OF_STOP: Duration = Duration::from_secs(8);

/// The deciding side of a partition of a shared queue.
pub fn consumer(settings: &Settings, partition: u32) -> ConsumerSettings {
    let usual = ConsumerSettings {
        partition,
        ..ConsumerSettings::default()
    };
    match &settings.engines.queue {
        QueueChoice::Wal => usual,
        QueueChoice::Sqs(sqs) => ConsumerSettings {
            credit: sqs.credit,
            last_call: (sqs.wait + usual.last_call).min(settings.shutdown.deadline.saturating_sub(REST_OF_STOP)),
            ..usual
        },
        QueueChoice::Kinesis(kinesis) => ConsumerSettings {
            credit: kinesis.credit,
            ..usual
        },
    }
}
