//! Tenants; keys and users and what processes hear of each other are in the modules below.

mod lists;
mod sharing;

use super::*;
use crate::{
    fs::sim::{CrashMode, SimFs},
    objects::folder::FolderObjects,
};
use serde_json::{Value, json};
use std::path::PathBuf;

fn objects(fs: &SimFs) -> Arc<dyn Objects> {
    Arc::new(FolderObjects::open(Arc::new(fs.clone()), PathBuf::from("/data/objects")).expect("opened"))
}

async fn open(fs: &SimFs) -> Catalog {
    Catalog::open(objects(fs)).await.expect("opened")
}

fn id(text: &str) -> TenantId {
    TenantId::parse(text).expect("a tenant id")
}

fn patch(settings: Value) -> Result<SettingsPatch, CatalogError> {
    SettingsPatch::parse(settings.as_object().expect("an object"))
}

fn new(tenant: &str) -> NewTenant {
    NewTenant {
        tenant_id: id(tenant),
        name: None,
        settings: SettingsPatch::default(),
    }
}

#[tokio::test]
async fn a_new_tenant_shows_every_setting_and_survives_a_power_cut() {
    let fs = SimFs::new();
    let made = open(&fs).await.create(new("acme")).await.expect("made");
    let after = open(&fs.crash(0, CrashMode::Lose)).await;
    assert_eq!(after.get(&id("acme")), Some(made.clone()), "durable before it returned");
    let shown = serde_json::to_value(&*made).expect("encodes");
    let settings = json!({
        "retention_days": 90, "log_levels": ["INFO", "WARNING", "ERROR", "CRITICAL"], "masking": [], "rate_limit": null,
        "keep_unknown_fields": false, "audit_reads": true, "access_retention_days": 365,
    });
    assert_eq!(
        (&shown["tenant_id"], &shown["name"], &shown["settings"]),
        (&json!("acme"), &json!("acme"), &settings)
    );
    assert_eq!(shown["created_at"], shown["updated_at"]);
    assert!(shown["created_at"].as_str().expect("text").ends_with('Z'));
    assert_eq!(shown.as_object().expect("an object").len(), 5);
}

#[tokio::test]
async fn what_is_given_replaces_and_what_is_left_out_stays() {
    let fs = SimFs::new();
    let catalog = open(&fs).await;
    catalog.create(new("b")).await.expect("made");
    catalog.create(new("a")).await.expect("made");
    let names: Vec<_> = catalog.list().iter().map(|t| t.tenant_id.to_string()).collect();
    assert_eq!(names, ["a", "b"]);
    assert!(matches!(catalog.create(new("a")).await, Err(CatalogError::Exists)));
    let levels = patch(json!({"log_levels": ["error", "CRITICAL", "ERROR"]})).expect("good");
    catalog.update(&id("a"), None, levels).await.expect("updated");
    catalog
        .update(&id("a"), Some("Ärzte & Co".to_owned()), SettingsPatch::default())
        .await
        .expect("updated");
    let keep = patch(json!({"keep_unknown_fields": true})).expect("good");
    let done = catalog.update(&id("a"), None, keep).await.expect("updated");
    assert_eq!(
        (done.name.as_str(), done.settings.log_levels),
        ("Ärzte & Co", LogLevels([false, false, true, true]))
    );
    assert!(done.settings.keep_unknown_fields && done.updated_at >= done.created_at);
    assert_eq!(open(&fs.crash(0, CrashMode::Lose)).await.get(&id("a")), Some(done));
    let missing = catalog.update(&id("c"), None, SettingsPatch::default()).await;
    assert!(matches!(missing, Err(CatalogError::NotFound)));
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_at_once_lose_nothing() {
    let fs = SimFs::new();
    // Two catalogs over the same objects are two processes: only the objects keep them apart.
    let shared = objects(&fs);
    let one = Catalog::open(shared.clone()).await.expect("opened");
    one.create(new("acme")).await.expect("made");
    let two = Catalog::open(shared).await.expect("opened");
    for round in 0..20 {
        let (name, keep) = (format!("round {round}"), round % 2 == 0);
        let (level, acme) = (["INFO", "ERROR"][round % 2], id("acme"));
        let edits = tokio::join!(
            one.update(&acme, Some(name.clone()), SettingsPatch::default()),
            one.update(&acme, None, patch(json!({"keep_unknown_fields": keep})).expect("good")),
            two.update(&acme, None, patch(json!({"log_levels": [level]})).expect("good")),
        );
        assert!(edits.0.is_ok() && edits.1.is_ok() && edits.2.is_ok());
        let found = open(&fs).await.get(&acme).expect("there");
        let mut levels = [false; 4];
        levels[crate::model::entry::Severity::parse(level).expect("one") as usize] = true;
        assert_eq!(
            (&found.name, found.settings.keep_unknown_fields, found.settings.log_levels),
            (&name, keep, LogLevels(levels))
        );
    }
    let last = one.update(&id("acme"), None, SettingsPatch::default()).await.expect("updated");
    assert_eq!(one.get(&id("acme")), Some(last), "memory shows the last one");
}

#[tokio::test]
async fn what_this_version_does_not_act_on_is_refused_unless_it_is_the_default() {
    let catalog = open(&SimFs::new()).await;
    catalog.create(new("acme")).await.expect("made");
    let unbuilt = [json!({"masking": ["email"]})];
    for settings in unbuilt {
        let name = settings.as_object().and_then(|s| s.keys().next()).cloned().expect("one");
        let field = format!("settings.{name}");
        let both = json!({"keep_unknown_fields": true, &name: settings[&name]});
        let done = catalog.update(&id("acme"), None, patch(both).expect("good values")).await;
        assert!(matches!(done, Err(CatalogError::NotImplemented(f)) if f == field), "{settings}");
        let made = NewTenant {
            settings: patch(settings.clone()).expect("good values"),
            ..new("other")
        };
        assert!(matches!(catalog.create(made).await, Err(CatalogError::NotImplemented(_))), "{settings}");
    }
    let defaults = json!({"retention_days": 90, "masking": [], "audit_reads": true, "access_retention_days": 365});
    catalog.update(&id("acme"), None, patch(defaults).expect("good")).await.expect("updated");
    assert_eq!(
        catalog.get(&id("acme")).expect("there").settings,
        TenantSettings::default(),
        "nothing of it was stored"
    );
    assert!(catalog.get(&id("other")).is_none());
    let access = patch(json!({"audit_reads": false, "access_retention_days": 1})).expect("good");
    let access = catalog.update(&id("acme"), None, access).await.expect("it is acted on");
    assert_eq!((access.settings.audit_reads, access.settings.access_retention_days), (false, 1));
    let days = catalog.update(&id("acme"), None, patch(json!({"retention_days": 30})).expect("good")).await;
    assert_eq!(days.expect("it is acted on").settings.retention_days, 30);
}

#[tokio::test]
async fn bad_values_are_named() {
    let table = [
        json!({"retention_days": 0}),
        json!({"retention_days": -1}),
        json!({"retention_days": 1.5}),
        json!({"retention_days": "90"}),
        json!({"retention_days": 36501}),
        json!({"retention_days": null}),
        json!({"log_levels": []}),
        json!({"log_levels": "INFO"}),
        json!({"log_levels": ["INFO", "FATAL"]}),
        json!({"log_levels": [1]}),
        json!({"masking": "email"}),
        json!({"masking": [""]}),
        json!({"masking": [1]}),
        json!({"rate_limit": 5}),
        json!({"rate_limit": {"per_second": 5}}),
        json!({"rate_limit": {"burst": -5}}),
        json!({"rate_limit": {"burst": 5}}),
        json!({"rate_limit": {"entries_per_second": 0}}),
        json!({"rate_limit": {"entries_per_second": 1.5}}),
        json!({"rate_limit": {"entries_per_second": "5"}}),
        json!({"rate_limit": {"bytes_per_second": 1_u64 << 54}}),
        json!({"rate_limit": {"entries_per_second": 5, "bursts": 5}}),
        json!({"rate_limit": [5]}),
        json!({"keep_unknown_fields": "yes"}),
        json!({"audit_reads": 1}),
        json!({"access_retention_days": []}),
        json!({"retention": 90}),
        json!({"Retention_days": 90}),
    ];
    for settings in table {
        let name = settings.as_object().and_then(|s| s.keys().next()).cloned().expect("one");
        let refused = patch(settings.clone());
        assert!(
            matches!(refused, Err(CatalogError::Invalid { field, .. }) if field == format!("settings.{name}")),
            "{settings}"
        );
    }
    let catalog = open(&SimFs::new()).await;
    for name in ["", "  ", "a\nb", &"x".repeat(257)] {
        let made = NewTenant {
            name: Some(name.to_owned()),
            ..new("acme")
        };
        assert!(
            matches!(catalog.create(made).await, Err(CatalogError::Invalid { field, .. }) if field == "name"),
            "{name:?}"
        );
    }
    assert!(catalog.list().is_empty());
}

#[tokio::test]
async fn a_damaged_tenant_stands_alone_and_is_not_made_again() {
    let fs = SimFs::new();
    let catalog = open(&fs).await;
    for tenant in ["a", "b", "c"] {
        catalog.create(new(tenant)).await.expect("made");
    }
    let path = |tenant: &str| PathBuf::from(format!("/data/objects/catalog/tenants/{tenant}.json"));
    fs.truncate(&path("b"), 10);
    fs.set_bytes(&path("c"), &fs.bytes(&path("a")));
    let after = open(&fs).await;
    assert_eq!((after.damaged(), after.list().len()), (2, 1));
    assert!(matches!(after.create(new("b")).await, Err(CatalogError::Exists)));
    let edit = after.update(&id("b"), None, SettingsPatch::default()).await;
    assert!(matches!(edit, Err(CatalogError::Damaged(_))));
}

#[tokio::test]
async fn memory_shows_an_edit_whose_caller_went_away_at_any_moment() {
    let fs = SimFs::new();
    let catalog = open(&fs).await;
    catalog.create(new("acme")).await.expect("made");
    for polls in 0..8 {
        let acme = id("acme");
        let mut edit = Box::pin(catalog.update(&acme, Some(format!("after {polls}")), SettingsPatch::default()));
        for _ in 0..polls {
            if futures_util::poll!(&mut edit).is_ready() {
                break;
            }
            open(&fs).await; // gives the edit time for about one step
        }
        drop(edit);
        let mut rounds = 0;
        while polls > 0 && (catalog.get(&acme).expect("there").name != format!("after {polls}") || open(&fs).await.get(&acme) != catalog.get(&acme)) {
            rounds += 1;
            assert!(rounds < 10_000, "begun after {polls} polls, and never finished");
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_write_that_failed_leaves_memory_with_what_is_stored() {
    let fs = SimFs::new();
    let catalog = open(&fs).await;
    fs.fail_syncs(0, 1);
    assert!(matches!(catalog.create(new("acme")).await, Err(CatalogError::Unavailable(ObjectError::Io(_)))));
    assert!(catalog.get(&id("acme")).is_none());
    catalog.create(new("acme")).await.expect("made");
}

#[tokio::test]
async fn a_retired_tenant_is_unknown_for_good_and_its_id_is_taken() {
    let fs = SimFs::new();
    let catalog = open(&fs).await;
    for tenant in ["acme", "globex"] {
        catalog.create(new(tenant)).await.expect("made");
    }
    catalog
        .update(&id("acme"), Some("Acme Ltd".to_owned()), SettingsPatch::default())
        .await
        .expect("updated");
    let retired = catalog.retire(&id("acme")).await.expect("retired");
    assert_eq!((&retired.tenant_id, &retired.finished_at), (&id("acme"), &None));
    let stored = fs.bytes(std::path::Path::new("/data/objects/catalog/tenants/acme.json"));
    assert!(!String::from_utf8_lossy(&stored).contains("Acme Ltd"), "nothing is left of it but the id");
    for (catalog, finished) in [(catalog, false), (open(&fs.crash(0, CrashMode::Lose)).await, true)] {
        assert!(catalog.get(&id("acme")).is_none());
        assert_eq!(catalog.list().len(), 1);
        assert!(matches!(catalog.create(new("acme")).await, Err(CatalogError::Exists)));
        let updated = catalog.update(&id("acme"), None, SettingsPatch::default()).await;
        assert!(matches!(updated, Err(CatalogError::NotFound)), "{updated:?}");
        assert!(matches!(catalog.retire(&id("acme")).await, Err(CatalogError::NotFound)));
        assert!(matches!(catalog.retire(&id("ghost")).await, Err(CatalogError::NotFound)));
        assert_eq!(catalog.retired(), std::slice::from_ref(&retired));
        if finished {
            catalog.finish(&id("acme")).await.expect("noted");
            catalog.finish(&id("acme")).await.expect("again");
            assert!(matches!(catalog.finish(&id("globex")).await, Err(CatalogError::NotFound)), "it is not deleted");
            assert!(catalog.retired()[0].finished_at.is_some());
        }
        assert_eq!(catalog.damaged(), 0);
    }
}

#[tokio::test]
async fn nobody_who_comes_late_brings_a_retired_tenant_back() {
    let shared = objects(&SimFs::new());
    let one = Catalog::open(shared.clone()).await.expect("opened");
    one.create(new("acme")).await.expect("made");
    // Another process, which has not heard of it yet.
    let two = Catalog::open(shared.clone()).await.expect("opened");
    let before = shared.get(&key_of(&id("acme"))).await.expect("read").expect("there").0;
    one.retire(&id("acme")).await.expect("retired");
    one.drop_tenant(&id("acme")).await.expect("dropped");
    let Ok(Object::Tenant(late)) = decode(&before) else {
        panic!("it was a tenant")
    };
    one.0.remember(late);
    assert!(
        one.get(&id("acme")).is_none(),
        "a change that was written before the tombstone and noted after it"
    );
    let key = NewKey {
        name: "service".to_owned(),
        role: crate::auth::Role::Writer,
        expires_at: None,
    };
    assert!(two.get(&id("acme")).is_some());
    let made = two.create_key(&id("acme"), key).await.map(drop);
    assert!(matches!(made, Err(CatalogError::NotFound)), "{made:?}");
    assert_eq!(shared.list("catalog/keys").await.expect("listed"), [], "no list without its tenant");
    let updated = two.update(&id("acme"), None, SettingsPatch::default()).await;
    assert!(matches!(updated, Err(CatalogError::NotFound)), "{updated:?}");
    two.catch_up().await.expect("looked");
    for catalog in [&one, &two, &Catalog::open(shared.clone()).await.expect("opened")] {
        assert!(catalog.get(&id("acme")).is_none() && catalog.retired().len() == 1);
    }
}
