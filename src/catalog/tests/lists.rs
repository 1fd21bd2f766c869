//! Keys and users: durable, bounded, each edit on top of the others'.

use super::*;
use crate::auth::{
    Role,
    password::{Hasher, Password, PasswordHash, Recipe},
};

pub fn key(name: &str) -> NewKey {
    NewKey {
        name: name.to_owned(),
        role: Role::Writer,
        expires_at: None,
    }
}

fn user(email: &str) -> NewUser {
    let new = NewUser {
        email: email.to_owned(),
        name: Some("Ann".to_owned()),
        roles: vec![Role::Viewer, Role::Auditor, Role::Viewer],
    };
    new.checked().expect("good")
}

async fn hash() -> PasswordHash {
    let hashed = Hasher::default().hash(&Password::new("x".to_owned()), Recipe::of_nobody()).await;
    hashed.expect("hashed")
}

/// A catalog with the tenants `acme` and `globex`.
pub async fn with_tenants(fs: &SimFs) -> Catalog {
    let catalog = open(fs).await;
    for tenant in ["acme", "globex"] {
        catalog.create(new(tenant)).await.expect("made");
    }
    catalog
}

fn names<T>(items: &[Arc<T>], name: impl Fn(&T) -> String) -> Vec<String> {
    let mut names: Vec<_> = items.iter().map(|item| name(item)).collect();
    names.sort();
    names
}

#[tokio::test]
async fn keys_and_users_survive_a_power_cut_and_so_does_their_end() {
    let (fs, acme) = (SimFs::new(), id("acme"));
    let catalog = with_tenants(&fs).await;
    let (made, text) = catalog.create_key(&acme, key("ci")).await.expect("made");
    let ann = catalog.create_user(&acme, user(" Ann@Example.COM "), hash().await).await.expect("made");
    assert_eq!((&*ann.email, &*ann.roles), ("ann@example.com", &[Role::Viewer, Role::Auditor][..]));
    let after = open(&fs.crash(0, CrashMode::Lose)).await;
    let found = after.key(ApiKey::id_in(text.reveal()).expect("a key")).expect("durable before it returned");
    assert!(found.verify(text.reveal()) && found == made && found.tenant == acme);
    assert_eq!(after.user(&acme, &ann.user_id), Some(ann.clone()));
    assert_eq!(after.user(&id("globex"), &ann.user_id), None, "a user is one of its tenant");
    assert_eq!(after.accounts("ann@example.com").as_slice(), std::slice::from_ref(&ann));

    catalog.revoke_key(&acme, &made.key_id).await.expect("revoked");
    catalog.remove_user(&acme, "ANN@example.com").await.expect("removed");
    for catalog in [&catalog, &open(&fs.crash(0, CrashMode::Lose)).await] {
        assert!(catalog.key(&made.key_id).is_none() && catalog.user(&acme, &ann.user_id).is_none());
        assert!(catalog.accounts("ann@example.com").is_empty());
        assert!(catalog.keys(&acme).await.expect("read").is_empty() && catalog.users(&acme).await.expect("read").is_empty());
    }
}

#[tokio::test]
async fn a_revocation_that_returned_holds_wherever_the_power_goes() {
    let acme = id("acme");
    let mut finished = false;
    for operations in 0.. {
        let fs = SimFs::new();
        let catalog = with_tenants(&fs).await;
        let (one, _) = catalog.create_key(&acme, key("one")).await.expect("made");
        let (two, _) = catalog.create_key(&acme, key("two")).await.expect("made");
        fs.power_off_after(operations);
        finished = catalog.revoke_key(&acme, &one.key_id).await.is_ok();
        for (seed, mode) in [(0, CrashMode::Lose), (1, CrashMode::Keep), (2, CrashMode::Tear), (3, CrashMode::Tear)] {
            let after = open(&fs.crash(seed, mode)).await;
            assert!(!finished || after.key(&one.key_id).is_none(), "after {operations} operations");
            assert!(after.key(&two.key_id).is_some() && after.damaged() == 0, "after {operations} operations");
        }
        if finished {
            break;
        }
    }
    assert!(finished);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_that_edit_at_once_lose_no_edit() {
    let (fs, acme) = (SimFs::new(), id("acme"));
    // Two catalogs over the same objects are two processes: only the objects keep them apart.
    let shared = objects(&fs);
    let one = Catalog::open(shared.clone()).await.expect("opened");
    one.create(new("acme")).await.expect("made");
    let two = Catalog::open(shared).await.expect("opened");
    let mut wanted = Vec::new();
    let mut last: Option<Arc<str>> = None;
    for round in 0..20 {
        let named = |n: usize| format!("{round:02}-{n}");
        let revoke = async {
            match &last {
                Some(id) => two.revoke_key(&acme, id).await.map(|_| ()),
                None => Ok(()),
            }
        };
        let (a, b, c, gone) = tokio::join!(
            one.create_key(&acme, key(&named(0))),
            two.create_key(&acme, key(&named(1))),
            one.create_key(&acme, key(&named(2))),
            revoke
        );
        gone.expect("revoked");
        wanted.extend([named(0), named(1)]);
        for made in [a, b] {
            assert!(one.keys(&acme).await.expect("read").contains(&made.expect("made").0), "round {round}");
        }
        last = Some(c.expect("made").0.key_id.clone());
    }
    two.revoke_key(&acme, &last.expect("one")).await.expect("revoked");
    for catalog in [&one, &two, &open(&fs).await] {
        catalog.catch_up().await.expect("read");
        let found = names(&catalog.keys(&acme).await.expect("read"), |key| key.name.to_string());
        assert_eq!(found, wanted);
        assert!(
            catalog
                .keys(&acme)
                .await
                .expect("read")
                .iter()
                .all(|key| catalog.key(&key.key_id).as_ref() == Some(key))
        );
    }
}

#[tokio::test]
async fn an_account_is_one_for_each_tenant_and_address_and_another_one_the_second_time() {
    let (fs, acme, globex) = (SimFs::new(), id("acme"), id("globex"));
    let catalog = with_tenants(&fs).await;
    let first = catalog.create_user(&acme, user("ann@x.org"), hash().await).await.expect("made");
    let again = catalog.create_user(&acme, user("ANN@x.org"), hash().await).await;
    assert!(matches!(again, Err(CatalogError::UserExists)));
    let other = catalog.create_user(&globex, user("ann@x.org"), hash().await).await.expect("another tenant's");
    assert_eq!(catalog.accounts("ann@x.org").len(), 2);
    for absent in ["bob@x.org", "", &other.user_id] {
        assert!(matches!(catalog.remove_user(&acme, absent).await, Err(CatalogError::NotFound)), "{absent}");
    }
    assert!(matches!(catalog.revoke_key(&acme, &first.user_id).await, Err(CatalogError::NotFound)));
    catalog.remove_user(&acme, &first.user_id).await.expect("removed");
    assert_eq!(catalog.accounts("ann@x.org").as_slice(), &[other]);
    let second = catalog.create_user(&acme, user("ann@x.org"), hash().await).await.expect("made");
    assert!(second.user_id != first.user_id && catalog.user(&acme, &first.user_id).is_none());
}

#[test]
fn addresses_are_compared_in_one_form() {
    for (given, normal) in [
        ("ann@example.com", Some("ann@example.com")),
        (" Ann@EXAMPLE.com\n", Some("ann@example.com")),
        ("ÄNN@bücher.example", Some("änn@bücher.example")),
        ("", None),
        ("ann", None),
        ("@x", None),
        ("ann@", None),
        ("a@b@c", None),
        ("a b@c", None),
        ("a@.c", None),
        ("a@c.", None),
        ("a\0@c", None),
        (&format!("{}@x", "a".repeat(253)), None),
    ] {
        assert_eq!(normal_email(given).as_deref(), normal, "{given:?}");
    }
    for roles in [vec![], vec![Role::PlatformAdmin], vec![Role::Admin, Role::PlatformAdmin]] {
        let new = NewUser {
            email: "a@b".to_owned(),
            name: None,
            roles,
        };
        assert!(matches!(new.checked(), Err(CatalogError::Invalid { field, .. }) if field == "roles"));
    }
}

#[tokio::test]
async fn a_list_is_bounded_and_a_tenant_that_is_not_there_has_none() {
    let (fs, acme) = (SimFs::new(), id("acme"));
    let catalog = with_tenants(&fs).await;
    catalog.create_key(&acme, key("first")).await.expect("made");
    let path = PathBuf::from("/data/objects/catalog/keys/acme.json");
    let mut list: Value = serde_json::from_slice(&fs.bytes(&path)).expect("json");
    let one = list["items"][0].clone();
    let many = (0..999).map(|i| {
        let mut one = one.clone();
        one["key_id"] = format!("{i:016}").into();
        one
    });
    list["items"] = many.collect();
    list["revision"] = json!(2);
    fs.set_bytes(&path, list.to_string().as_bytes());
    catalog.create_key(&acme, key("the last")).await.expect("the thousandth");
    let full = catalog.create_key(&acme, key("too many")).await;
    assert!(matches!(full, Err(CatalogError::Full { what: "keys", most: 1000 })));
    catalog.revoke_key(&acme, "0000000000000007").await.expect("revoked");
    catalog.create_key(&acme, key("room again")).await.expect("made");
    let nobody = catalog.create_key(&id("nobody"), key("x")).await;
    assert!(matches!(nobody, Err(CatalogError::NotFound)), "no object is made for it");
    assert!(!fs.paths().iter().any(|path| path.to_string_lossy().contains("nobody")));
}

#[tokio::test]
async fn a_list_that_cannot_be_understood_opens_nothing_stands_alone_and_is_not_overwritten() {
    let (fs, acme, globex) = (SimFs::new(), id("acme"), id("globex"));
    let catalog = with_tenants(&fs).await;
    let (_, text) = catalog.create_key(&acme, key("ci")).await.expect("made");
    let (other, _) = catalog.create_key(&globex, key("ci")).await.expect("made");
    let path = PathBuf::from("/data/objects/catalog/keys/acme.json");
    let good = fs.bytes(&path);
    let with = |from: &str, to: &str| {
        let text = String::from_utf8(good.clone()).expect("text");
        assert!(text.contains(from), "{text}");
        text.replacen(from, to, 1).into_bytes()
    };
    for bad in [
        with("\"format\":1", "\"format\":2"),
        b"{\"format\": 2, \"everything\": \"else\"}".to_vec(),
        with("\"role\":\"writer\"", "\"role\":\"platform_admin\""),
        with("\"role\":\"writer\"", "\"role\":\"king\""),
        with("\"sha256\":\"", "\"sha256\":\"0"),
        good[..good.len() / 2].to_vec(),
        Vec::new(),
    ] {
        fs.set_bytes(&path, &bad);
        let after = open(&fs).await;
        assert_eq!(after.damaged(), 1);
        let id = ApiKey::id_in(text.reveal()).expect("a key");
        assert!(after.key(id).is_none() && after.key(&other.key_id).is_some() && after.get(&acme).is_some());
        assert!(matches!(after.keys(&acme).await, Err(CatalogError::Damaged(_))));
        assert!(matches!(after.create_key(&acme, key("x")).await, Err(CatalogError::Damaged(_))));
        assert_eq!(fs.bytes(&path), bad, "what a later version wrote stays");
        assert!(matches!(catalog.keys(&acme).await, Err(CatalogError::Damaged(_))));
        assert!(catalog.key(id).is_none(), "whom it revokes is not known, so that nobody gets in");
        fs.set_bytes(&path, &good);
        for catalog in [&catalog, &after] {
            assert_eq!(catalog.keys(&acme).await.expect("restored").len(), 1);
            assert!(catalog.key(id).expect("restored").verify(text.reveal()) && catalog.damaged() == 0);
        }
    }
}

#[tokio::test]
async fn a_tenant_that_is_dropped_leaves_no_key_and_no_user() {
    let (fs, acme) = (SimFs::new(), id("acme"));
    let catalog = with_tenants(&fs).await;
    let (made, _) = catalog.create_key(&acme, key("ci")).await.expect("made");
    catalog.create_user(&acme, user("ann@x.org"), hash().await).await.expect("made");
    catalog.drop_tenant(&acme).await.expect("dropped");
    catalog.drop_tenant(&acme).await.expect("and again");
    for catalog in [&catalog, &open(&fs.crash(0, CrashMode::Lose)).await] {
        assert!(catalog.key(&made.key_id).is_none() && catalog.accounts("ann@x.org").is_empty());
    }
    let left: Vec<_> = fs.paths().into_iter().filter(|path| path.ends_with("acme.json")).collect();
    assert_eq!(left, [PathBuf::from("/data/objects/catalog/tenants/acme.json")]);
}

#[tokio::test]
async fn a_key_whose_maker_went_away_is_there_or_not_and_memory_knows() {
    let (fs, acme) = (SimFs::new(), id("acme"));
    let catalog = with_tenants(&fs).await;
    for polls in 0..6 {
        let mut edit = Box::pin(catalog.create_key(&acme, key(&format!("after {polls}"))));
        for _ in 0..polls {
            if futures_util::poll!(&mut edit).is_ready() {
                break;
            }
            open(&fs).await; // gives the edit time for about one step
        }
        drop(edit);
        let mut rounds = 0;
        while polls > 0 && !catalog.0.keys.list(&acme).iter().any(|key| *key.name == format!("after {polls}")) {
            rounds += 1;
            assert!(rounds < 10_000, "begun after {polls} polls, and never finished");
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(*catalog.0.keys.list(&acme), *open(&fs).await.0.keys.list(&acme));
}
