//! What `deploy/` and the `Dockerfile` say about the crate is true: metric names exist, every alert has a test, the image's build
//! has every file that the crate is built from. The rules themselves are tested by `deploy/check.sh`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Every metric of the process with its type.
fn metrics() -> BTreeMap<String, String> {
    sluice::telemetry::metrics::metrics().http(200, std::time::Duration::ZERO);
    let text = sluice::telemetry::metrics::render();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect()
}

/// All words that begin like our metrics.
fn named_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("sluice_")).collect()
}

#[test]
fn dashboards_and_alerts_name_only_metrics_that_exist() {
    let metrics = metrics();
    let exists = |word: &str| {
        let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| word.strip_suffix(suffix));
        let is = |name: &str, histogram: bool| metrics.get(name).is_some_and(|kind| (kind == "histogram") == histogram);
        is(word, false) || of_histogram.is_some_and(|base| is(base, true))
    };
    for file in [
        "deploy/grafana/dashboards/sluice.json",
        "deploy/prometheus/alerts.yml",
        "deploy/prometheus/alerts.test.yml",
    ] {
        let text = read(file);
        let unknown: Vec<_> = named_in(&text).into_iter().filter(|word| !exists(word)).collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?} is not in src/telemetry/metrics.rs");
        assert!(named_in(&text).len() > 10, "{file} names metrics");
    }
}

#[test]
fn every_metric_is_on_the_dashboard() {
    let dashboard = read("deploy/grafana/dashboards/sluice.json");
    let shown = named_in(&dashboard);
    let missing: Vec<_> = metrics()
        .into_keys()
        .filter(|name| !shown.iter().any(|word| word.starts_with(name.as_str())))
        .collect();
    assert!(missing.is_empty(), "{missing:?} is on no panel of deploy/grafana/dashboards/sluice.json");
}

#[test]
fn the_dashboard_is_json_with_panels_that_do_not_overlap() {
    let dashboard: serde_json::Value = serde_json::from_str(&read("deploy/grafana/dashboards/sluice.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64()), "two panels have one id: {}", panel["title"]);
        let at = |name: &str| panel["gridPos"][name].as_u64().expect("a number");
        for (x, y) in (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y))) {
            assert!(x < 24 && cells.insert((x, y)), "{} lies over another panel or over the edge", panel["title"]);
        }
    }
}

#[test]
fn every_alert_is_seen_firing_by_a_test() {
    let (rules, tests) = (read("deploy/prometheus/alerts.yml"), read("deploy/prometheus/alerts.test.yml"));
    let alerts: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 10, "{alerts:?}");
    for alert in alerts {
        let fires = tests.contains(&format!("alertname=\"{alert}\"}}', value: 1")) || tests.contains(&format!("alertname: {alert}\n        exp_alerts"));
        assert!(fires, "no test in alerts.test.yml sees {alert} fire");
    }
}

#[test]
fn the_image_is_built_from_every_file_that_the_crate_needs() {
    let (docker, manifest) = (read("Dockerfile"), read("Cargo.toml"));
    // The layer of dependencies makes an empty file for each target of the manifest; benches it finds by the line after their head.
    let benches = manifest.split("[[bench]]\n").skip(1);
    assert!(
        benches.clone().all(|bench| bench.starts_with("name = \"")) && benches.count() > 3,
        "the name of a bench comes first"
    );
    let manifest: toml::Table = toml::from_str(&manifest).expect("TOML");
    for example in manifest["example"].as_array().expect("examples") {
        let target = example["path"].as_str().expect("a path").trim_end_matches(".rs");
        assert!(
            docker.split([' ', ';']).any(|word| word == target),
            "Dockerfile: `{target}` is not among the empty targets"
        );
    }
    // What is compiled in lies in a folder that is copied.
    let ignored = read(".dockerignore");
    let mut included = BTreeSet::new();
    included_by(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut included);
    assert!(included.len() > 5, "{included:?}");
    for path in included {
        let folder = path.trim_start_matches("../").split('/').next().expect("a folder").to_owned();
        if path.starts_with("../") {
            assert!(
                docker.contains(&format!("COPY {folder} {folder}\n")),
                "Dockerfile: `{folder}` is not copied, but {path} is compiled in"
            );
            assert!(ignored.contains(&format!("!{folder}\n")), ".dockerignore: `{folder}` is left out");
        }
    }
}

fn included_by(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            included_by(&path, found);
        } else {
            let text = fs::read_to_string(&path).expect("text");
            for rest in text.split("include_str!(\"").skip(1).chain(text.split("include_bytes!(\"").skip(1)) {
                found.extend(rest.split('"').next().map(str::to_owned));
            }
        }
    }
}
