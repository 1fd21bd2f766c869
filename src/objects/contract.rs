//! What every engine for objects must do, as one suite; and the two that it runs on.

use super::{Key, ObjectError, Objects, Precondition, folder::FolderObjects, memory::MemoryObjects};
use crate::fs::real::RealFs;
use std::sync::Arc;

fn key(text: &str) -> Key {
    Key::parse(text).expect("a name")
}

/// Runs the whole suite on an engine without objects.
pub async fn holds(objects: Arc<dyn Objects>) {
    preconditions_hold_or_nothing_is_written(&*objects).await;
    of_writers_who_read_the_same_version_one_wins(objects.clone()).await;
    of_creators_one_wins(objects.clone()).await;
    a_range_is_what_there_is_of_it(&*objects).await;
    a_list_is_sorted_and_deep(&*objects).await;
    a_cleared_folder_holds_nothing(&*objects).await;
}

async fn preconditions_hold_or_nothing_is_written(objects: &dyn Objects) {
    let key = key("conditions/b.json");
    let conflict = |got: Result<_, ObjectError>| assert!(matches!(got, Err(ObjectError::Conflict)), "{got:?}");
    assert!(objects.get(&key).await.expect("read").is_none());
    let first = objects.put(&key, "1".into(), Precondition::Absent).await.expect("written");
    conflict(objects.put(&key, "2".into(), Precondition::Absent).await);
    let second = objects.put(&key, "2".into(), Precondition::Version(first.clone())).await.expect("written");
    conflict(objects.put(&key, "3".into(), Precondition::Version(first)).await);
    assert_eq!(objects.get(&key).await.expect("read"), Some(("2".into(), second.clone())));
    objects.delete(&key).await.expect("deleted");
    objects.delete(&key).await.expect("what is not there is fine");
    assert!(objects.get(&key).await.expect("read").is_none());
    conflict(objects.put(&key, "3".into(), Precondition::Version(second)).await);
    objects.put(&key, "4".into(), Precondition::Any).await.expect("written");
    objects.put(&key, "".into(), Precondition::Any).await.expect("written");
    assert_eq!(objects.get(&key).await.expect("read").expect("there").0.len(), 0);
}

async fn of_writers_who_read_the_same_version_one_wins(objects: Arc<dyn Objects>) {
    const WRITERS: usize = 12;
    let increment = |objects: Arc<dyn Objects>| async move {
        let key = key("race/counter.txt");
        loop {
            let (value, when) = match objects.get(&key).await.expect("read") {
                None => (0u32, Precondition::Absent),
                Some((bytes, version)) => (
                    std::str::from_utf8(&bytes).expect("text").parse().expect("a number"),
                    Precondition::Version(version),
                ),
            };
            match objects.put(&key, (value + 1).to_string().into(), when).await {
                Ok(_) => return,
                Err(ObjectError::Conflict) => {}
                Err(e) => panic!("{e}"),
            }
        }
    };
    let writers: Vec<_> = (0..WRITERS).map(|_| tokio::spawn(increment(objects.clone()))).collect();
    for writer in writers {
        writer.await.expect("no panic");
    }
    let (value, _) = objects.get(&key("race/counter.txt")).await.expect("read").expect("there");
    assert_eq!(value, WRITERS.to_string());
}

/// What fencing stands on: of those who create one name, one does, and its bytes are there.
async fn of_creators_one_wins(objects: Arc<dyn Objects>) {
    for round in 0..4 {
        let create = |i: usize, objects: Arc<dyn Objects>| async move {
            let name = key(&format!("race/create-{round}.seal"));
            match objects.put(&name, vec![i as u8; 10_000].into(), Precondition::Absent).await {
                Ok(_) => Some(i),
                Err(ObjectError::Conflict) => None,
                Err(e) => panic!("{e}"),
            }
        };
        let creators: Vec<_> = (0..8).map(|i| tokio::spawn(create(i, objects.clone()))).collect();
        let mut winners = Vec::new();
        for creator in creators {
            winners.extend(creator.await.expect("no panic"));
        }
        let (bytes, _) = objects.get(&key(&format!("race/create-{round}.seal"))).await.expect("read").expect("there");
        assert_eq!(winners.len(), 1, "{winners:?}");
        assert!(bytes.iter().all(|b| usize::from(*b) == winners[0]) && bytes.len() == 10_000);
    }
}

async fn a_range_is_what_there_is_of_it(objects: &dyn Objects) {
    let key = key("ranges/b.part");
    assert_eq!(objects.get_range(&key, 0..4).await.expect("read"), None);
    objects.put(&key, "0123456789".into(), Precondition::Absent).await.expect("written");
    for (range, want) in [(0..4, "0123"), (8..99, "89"), (10..12, ""), (99..200, ""), (3..3, "")] {
        let got = objects.get_range(&key, range.clone()).await.expect("read").expect("there");
        assert_eq!(got, want, "{range:?}");
    }
}

async fn a_list_is_sorted_and_deep(objects: &dyn Objects) {
    for name in ["x/b.json", "x/a.json", "x/y/c.json", "xx/d.json"] {
        objects.put(&key(name), "1".into(), Precondition::Any).await.expect("written");
    }
    let names: Vec<_> = objects.list("x").await.expect("listed").iter().map(|k| k.to_string()).collect();
    assert_eq!(names, ["x/a.json", "x/b.json", "x/y/c.json"]);
    assert_eq!(objects.list("nowhere").await.expect("listed"), []);
    for bad in ["", "..", "x/../xx", "/x", "x/"] {
        assert!(matches!(objects.list(bad).await, Err(ObjectError::InvalidKey(_))), "{bad}");
    }
}

async fn a_cleared_folder_holds_nothing(objects: &dyn Objects) {
    for name in ["clear/a/1.json", "clear/a/b/2.part", "clear/ab/3.json", "clear/4.json"] {
        objects.put(&key(name), "1".into(), Precondition::Any).await.expect("written");
    }
    objects.clear("clear/a").await.expect("cleared");
    objects.clear("clear/a").await.expect("again");
    objects.clear("nowhere").await.expect("what is not there is fine");
    assert!(matches!(objects.clear("../x").await, Err(ObjectError::InvalidKey(_))));
    assert_eq!(objects.list("clear").await.expect("listed"), [key("clear/4.json"), key("clear/ab/3.json")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_keeps_the_contract() {
    let dir = tempfile::tempdir().expect("a folder");
    let objects = FolderObjects::open(Arc::new(RealFs), dir.path().join("objects")).expect("opened");
    holds(Arc::new(objects)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_keeps_the_contract() {
    holds(Arc::new(MemoryObjects::default())).await;
}
