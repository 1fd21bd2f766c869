//! The proxy of the fault tests does what it says: otherwise those tests would show nothing.

use crate::harness::proxy::{Fault, Proxy};
use bytes::Bytes;
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// A server that answers `200` and "done" to whatever ends in `END`, and writes down what it got.
async fn server() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("bound"));
    let got = Arc::new(Mutex::new(Vec::new()));
    let kept = got.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let kept = kept.clone();
            tokio::spawn(async move {
                let mut bytes = Vec::new();
                while !bytes.ends_with(b"END") && matches!(socket.read_buf(&mut bytes).await, Ok(1..)) {}
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let whole = text.ends_with("END");
                kept.lock().unwrap().push(text);
                if whole {
                    let _ = socket
                        .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nx-kind: real\r\n\r\n2\r\ndo\r\n2\r\nne\r\n0\r\n\r\n")
                        .await;
                }
            });
        }
    });
    (address, got)
}

/// Status and body; `None` if the connection broke.
async fn send(proxy: &Proxy, body: &'static str) -> Option<(u16, String)> {
    let client = sluice::cli::client::plain().expect("a client");
    let answer = client
        .post(format!("{}/path?q=1", proxy.url()))
        .header("x-mine", "kept")
        .body(body)
        .send()
        .await
        .ok()?;
    let status = answer.status().as_u16();
    Some((status, answer.text().await.ok()?))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_does_what_it_says() {
    let (upstream, got) = server().await;
    let proxy = Proxy::start(&upstream).await;
    let taken = |n: usize| (0..n).map(|_| got.lock().unwrap().remove(0)).collect::<Vec<_>>();
    let done = Some((200, "done".to_owned()));

    assert_eq!(send(&proxy, "one END").await, done);
    let request = taken(1).remove(0);
    assert!(
        request.starts_with("POST /path?q=1 HTTP/1.1\r\n") && request.contains("x-mine: kept\r\n"),
        "{request}"
    );

    let post = |request: &crate::harness::proxy::Request| request.method == "POST" && request.header("x-mine") == "kept" && request.path.ends_with("q=1");
    proxy.next(1, post, Fault::Delay(Duration::from_millis(50)));
    let began = Instant::now();
    assert_eq!(send(&proxy, "END").await, done);
    assert!(began.elapsed() >= Duration::from_millis(50));

    let headers = vec![("retry-after".to_owned(), "1".to_owned())];
    proxy.next(1, post, Fault::Answer(503, headers, Bytes::from_static(b"busy")));
    assert_eq!(send(&proxy, "END").await, Some((503, "busy".to_owned())));
    proxy.next(1, post, Fault::Refuse);
    assert_eq!(send(&proxy, "END").await, None);
    assert_eq!(taken(1).len(), 1, "only the late one has reached the server");
    assert!(got.lock().unwrap().is_empty());

    proxy.next(1, post, Fault::CutAnswer(2));
    assert_eq!(send(&proxy, "cut END").await, None, "two of four bytes are no answer");
    proxy.next(1, post, Fault::Swallow);
    assert_eq!(send(&proxy, "swallowed END").await, None);
    let seen = taken(2);
    assert!(seen[0].ends_with("cut END") && seen[1].ends_with("swallowed END"), "{seen:?}");

    proxy.next(1, post, Fault::Hang);
    let hung = tokio::time::timeout(Duration::from_millis(300), send(&proxy, "hung END")).await;
    assert!(hung.is_err(), "no answer comes");
    assert!(taken(1)[0].ends_with("hung END"));

    proxy.next(1, post, Fault::CutRequest);
    assert_eq!(send(&proxy, "0123456789END").await, None);
    // The server notices on its own time that no more comes.
    let deadline = Instant::now() + crate::harness::PATIENCE;
    while got.lock().unwrap().is_empty() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(taken(1)[0].ends_with("\r\n\r\n012345"));

    let fault = Fault::Rewrite {
        request: Some(Arc::new(|_| Bytes::from_static(b"other END"))),
        answer: Some(Arc::new(|_| Bytes::from_static(b"partly"))),
    };
    proxy.next(1, post, fault);
    assert_eq!(send(&proxy, "mine END").await, Some((200, "partly".to_owned())));
    assert!(taken(1)[0].ends_with("other END"));

    proxy.down();
    assert_eq!(send(&proxy, "END").await, None);
    proxy.mend();
    let before = proxy.seen();
    assert_eq!(send(&proxy, "END").await, done);
    assert_eq!(proxy.seen(), before + 1);
}
