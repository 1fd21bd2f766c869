//! What a scenario is run on: a server, the stand-ins if it has any, the tenants of each class, and what was sent to them.

use crate::{
    holes::{self, Blackhole},
    http::Address,
    ids::{Answer, Compared, Sent},
    scenario::{Scenario, Stores, Writers},
    server::Server,
};
use anyhow::Context;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};
use uuid::Uuid;

/// An entry that can be asked for.
#[derive(Clone, Copy)]
pub struct Sample {
    pub tenant: usize,
    pub id: Uuid,
    pub request: Uuid,
}

/// Most of them that a class keeps.
const SAMPLES: usize = 10_000;

/// A tenant with its token and what was sent to it.
pub struct Tenant {
    /// Name and token.
    pub who: (String, String),
    sent: Mutex<Sent>,
}

impl Tenant {
    /// Notes what was said to these.
    pub fn note(&self, answer: Answer, ids: impl IntoIterator<Item = Uuid>) {
        self.sent.lock().expect("nothing panics while it holds this lock").note(answer, ids);
    }
}

/// The tenants of a class.
pub struct Tenants {
    pub all: Vec<Tenant>,
    samples: Mutex<Vec<Sample>>,
}

impl Tenants {
    /// Keeps an acknowledged entry to be asked for, until there are enough.
    pub fn sample(&self, sample: Sample) {
        let mut samples = self.samples.lock().expect("nothing panics while it holds this lock");
        if samples.len() < SAMPLES {
            samples.push(sample);
        }
    }

    /// The n-th of those kept, from the beginning again when there are fewer.
    pub fn sampled(&self, n: usize) -> Option<Sample> {
        let samples = self.samples.lock().expect("nothing panics while it holds this lock");
        samples.get(n.checked_rem(samples.len())?).copied()
    }
}

/// All of it.
pub struct Site {
    pub server: tokio::sync::Mutex<Server>,
    /// Where the server's API is now.
    pub address: Address,
    pub holes: Option<Blackhole>,
    pub classes: BTreeMap<String, Arc<Tenants>>,
}

impl Site {
    /// Starts it.
    pub async fn start(binary: &str, scenario: &Scenario) -> anyhow::Result<Self> {
        let mut settings: Vec<(String, String)> = Vec::new();
        let holes = match scenario.stores {
            Stores::Embedded => None,
            Stores::StandIns => Some(Blackhole::start()?),
        };
        if let Some(holes) = &holes {
            let stores = holes::stores(holes, &holes::name());
            settings.extend(stores.into_iter().map(|(key, value)| (key.to_owned(), value)));
        }
        for (key, value) in &scenario.settings {
            settings.push((format!("SLUICE__{}", key.to_uppercase().replace('.', "__")), text(value)?));
        }
        let settings: Vec<(&str, &str)> = settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let server = Server::start(binary, &settings).await?;
        Ok(Self {
            address: Address::new(server.http),
            server: tokio::sync::Mutex::new(server),
            holes,
            classes: BTreeMap::new(),
        })
    }

    /// Makes the tenants of a class that are not there yet; a class grows and never shrinks.
    pub async fn enrol(&mut self, writers: &Writers) -> anyhow::Result<()> {
        if let Some(there) = self.classes.get(&writers.name) {
            anyhow::ensure!(there.all.len() == writers.tenants, "`{}` has other `tenants` in another phase", writers.name);
            return Ok(());
        }
        let settings = writers.tenant_settings.as_ref().map(serde_json::to_value).transpose()?;
        let made = self.server.lock().await.make(&writers.name, writers.tenants, settings.as_ref()).await?;
        let all = made.into_iter().map(|who| Tenant { who, sent: Mutex::default() }).collect();
        let tenants = Tenants {
            all,
            samples: Mutex::default(),
        };
        self.classes.insert(writers.name.clone(), Arc::new(tenants));
        Ok(())
    }

    /// Every tenant with its class.
    fn tenants(&self) -> impl Iterator<Item = &Tenant> {
        self.classes.values().flat_map(|class| &class.all)
    }

    /// How many tenants there are.
    pub fn count(&self) -> usize {
        self.tenants().count()
    }

    /// Waits until everything that was acknowledged is stored.
    pub async fn wait_stored(&self) -> anyhow::Result<()> {
        if let Some(holes) = &self.holes {
            let acked: usize = self.tenants().map(|tenant| tenant.sent.lock().expect("whole").acked()).sum();
            return holes.stored(acked as u64).await;
        }
        let who: Vec<_> = self.tenants().map(|tenant| tenant.who.clone()).collect();
        self.server.lock().await.wait_stored(&who).await?;
        Ok(())
    }

    /// Reads everything back and compares it, by id, with what was said to each.
    ///
    /// # Errors
    /// Something is lost, doubled, or there although it was refused or never sent.
    pub async fn compare(&self) -> anyhow::Result<Compared> {
        let (server, mut sum) = (self.server.lock().await, Compared::default());
        if let Some(holes) = &self.holes {
            holes.nothing_twice().await?;
        }
        for tenant in self.tenants() {
            let mut sent = std::mem::take(&mut *tenant.sent.lock().expect("whole"));
            match &self.holes {
                None => sum += server.compare(&tenant.who, &mut sent).await?,
                Some(holes) => {
                    let name = &tenant.who.0;
                    for (store, of) in [("ClickHouse", holes.clickhouse), ("OpenSearch", holes.opensearch)] {
                        let mut comparison = sent.compare()?;
                        let stored = holes.ids(of, name).await?.into_iter().try_for_each(|id| comparison.stored(id));
                        let compared = stored.and_then(|()| comparison.finish()).with_context(|| format!("{name} in {store}"))?;
                        if of == holes.clickhouse {
                            sum += compared;
                        }
                    }
                }
            }
            *tenant.sent.lock().expect("whole") = sent;
        }
        Ok(sum)
    }
}

/// A setting as the environment has it.
fn text(value: &toml::Value) -> anyhow::Result<String> {
    Ok(match value {
        toml::Value::String(text) => text.clone(),
        other => serde_json::to_string(other)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_written_as_the_environment_has_them() {
        let value: toml::Value = toml::from_str("a = \"1s\"\nb = 7\nc = true\nd = [\"x\"]").expect("TOML");
        let of = |key: &str| text(&value[key]).expect("text");
        assert_eq!([of("a"), of("b"), of("c"), of("d")], ["1s", "7", "true", r#"["x"]"#]);
    }
}
