//! A full disk: 503, nothing half kept, and recovery by itself when there is room again.

use crate::harness::{Site, assert_adds_up, assert_dense, data};
use std::{path::PathBuf, process::Command};

/// A small file system in memory, unmounted at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(site: &Site, size: &str) -> Option<Self> {
        let at = site.folder.path().join("disk");
        std::fs::create_dir(&at).expect("made");
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(&at)
            .status();
        if done.is_ok_and(|s| s.success()) {
            return Some(Self(at));
        }
        eprintln!("LEFT OUT: mounting a tmpfs is refused here; the fault at the file layer (`full_disk` in the unit tests) stands for it");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the killed server may not have let go yet.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_and_recovers_by_itself() {
    let mut site = Site::small();
    let Some(disk) = SmallDisk::mount(&site, "96m") else { return };
    site.set("DATA_DIR", disk.0.join("data").to_str().expect("text"));
    let server = site.start();
    let token = server.tenant("acme").await;
    let mut acked = 0;
    // Somebody else fills the disk.
    let hog = disk.0.join("hog");
    std::fs::write(&hog, vec![1u8; 70 << 20]).expect("there is room");
    let mut refused = None;
    for _ in 0..3000 {
        let (body, ids) = data::bulk(100, &"y".repeat(500));
        let answer = server
            .client
            .post(server.url("/logs/bulk"))
            .bearer_auth(&token)
            .header("content-type", "application/json")
            .body(body)
            .send()
            .await
            .expect("it answers");
        match answer.status().as_u16() {
            201 => acked += ids.len(),
            503 => {
                assert!(answer.headers().contains_key("retry-after"));
                refused = Some(answer.text().await.expect("text"));
                break;
            }
            other => panic!("{other}: {}", answer.text().await.unwrap_or_default()),
        }
    }
    assert!(
        refused.is_some_and(|text| text.contains("durability")),
        "the disk never was full after {acked} entries"
    );
    let says_why = || async {
        let health = server.client.get(format!("http://{}/health", server.http)).send().await.expect("it answers");
        health.text().await.expect("text").contains("disk")
    };
    server.until(says_why, "health says that the disk is full").await;

    std::fs::remove_file(&hog).expect("removed");
    server
        .until(
            || async { server.post(&token, "/logs/bulk", data::bulk(1, "again").0).await.0 == 201 },
            "room again",
        )
        .await;
    let usage = server.settled_usage(&token, "acme").await;
    assert_adds_up(&usage);
    assert!(usage["stored"].as_u64().expect("a number") as usize > acked);
    let entries = server.everything(&token).await;
    assert_dense(&entries);
    assert_eq!(entries.len() as u64, usage["stored"].as_u64().expect("a number"));
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_of_64_mib_works_with_the_defaults_until_its_reserve() {
    let mut site = Site::plain();
    let Some(disk) = SmallDisk::mount(&site, "64m") else { return };
    site.set("DATA_DIR", disk.0.join("data").to_str().expect("text"));
    let server = site.start();
    let token = server.tenant("acme").await;
    let mut acked = 0;
    let refused = loop {
        let (body, ids) = data::bulk(100, &uuid::Uuid::new_v4().to_string().repeat(15));
        match server.post(&token, "/logs/bulk?ids=false", body).await {
            (201, _) => acked += ids.len(),
            (503, problem) => break problem,
            (status, problem) => panic!("{status}: {problem}"),
        }
    };
    assert!(refused["detail"].as_str().is_some_and(|text| text.contains("disk.reserve")), "{refused}");
    // A quarter of the volume is the reserve; a segment that was prepared meanwhile and a flush may have used some of it.
    let free = rustix::fs::statvfs(&disk.0).map(|stat| stat.f_bavail * stat.f_frsize).expect("it is mounted");
    assert!(free >= 4 << 20, "{free} bytes are left: what drains has no room");
    assert!(
        std::fs::read_dir(disk.0.join("data/parts")).is_ok_and(|mut parts| parts.next().is_some()),
        "nothing was flushed on the way"
    );
    let before = server.settled_usage(&token, "acme").await;
    assert_adds_up(&before);
    assert_eq!(server.stop(), Some(0));

    let server = site.start();
    server.ready().await;
    let after = server.settled_usage(&token, "acme").await;
    assert_eq!((&after["stored"], &before["stored"]), (&serde_json::json!(acked), &serde_json::json!(acked)));
    assert_eq!(server.everything(&token).await.len(), acked);
    let health = server.client.get(format!("http://{}/health", server.http)).send().await.expect("it answers");
    assert!(health.text().await.expect("text").contains(r#""damage":[]"#), "a full disk is no damage");
    drop(server);
}
