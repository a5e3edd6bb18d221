use std::path::PathBuf;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use vda_spdk::{BdevGetBdevs, BdevMallocDelete, BdevWaitForExamine, LogLevel};

use super::*;
use crate::app::LogLevels;
use crate::rpc::State;

struct Running {
    dir: tempfile::TempDir,
    app: Rc<App>,
    serving: tokio::task::JoinHandle<()>,
}

impl Running {
    /// `bdev_malloc_delete` answers at once; `bdev_wait_for_examine` when `bdev_malloc_delete` of `go` was called.
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::bind(&dir.path().join("rpc.sock")).await.unwrap();
        let app = App::new(LogLevels::new(LogLevel::Notice, |_| {}));
        let mut methods = Methods::default();
        let go = Rc::new(tokio::sync::Notify::new());
        let gone = Rc::clone(&go);
        methods.method::<BdevMallocDelete>(State::Any, async move |_, call| {
            if call.name == "go" {
                gone.notify_one();
            }
            Ok(true)
        });
        methods.method::<BdevWaitForExamine>(State::Any, async move |_, _| {
            go.notified().await;
            Ok(true)
        });
        methods.method::<BdevGetBdevs>(State::Any, async |_, _| Ok(Vec::new()));
        let serving = tokio::task::spawn_local(server.serve(Rc::clone(&app), Rc::new(methods)));
        Self { dir, app, serving }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("rpc.sock")
    }

    async fn connect(&self) -> BufReader<UnixStream> {
        BufReader::new(UnixStream::connect(self.path()).await.unwrap())
    }
}

async fn send(stream: &mut BufReader<UnixStream>, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

async fn answer(stream: &mut BufReader<UnixStream>) -> Value {
    let mut line = String::new();
    assert_ne!(stream.read_line(&mut line).await.unwrap(), 0, "the server closed the connection");
    serde_json::from_str(&line).unwrap()
}

async fn exchange(stream: &mut BufReader<UnixStream>, text: &str) -> Value {
    send(stream, text).await;
    answer(stream).await
}

fn ok(id: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": true})
}

fn delete(id: &str, name: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"bdev_malloc_delete","params":{{"name":"{name}"}}}}"#)
}

fn invalid() -> Value {
    json!({"jsonrpc": "2.0", "id": null, "error": {"code": -32600, "message": "Invalid request"}})
}

#[tokio::test(flavor = "local")]
async fn requests_follow_one_another_in_any_chunks() {
    let running = Running::start().await;
    let mut stream = running.connect().await;
    for byte in [delete("1", "a"), delete(r#""two""#, "b")].concat().as_bytes() {
        stream.write_all(&[*byte]).await.unwrap();
    }
    assert_eq!(answer(&mut stream).await, ok(json!(1)));
    assert_eq!(answer(&mut stream).await, ok(json!("two")));
}

#[tokio::test(flavor = "local")]
async fn a_slow_call_does_not_hold_up_the_next() {
    let running = Running::start().await;
    let mut stream = running.connect().await;
    send(&mut stream, r#"{"id":1,"method":"bdev_wait_for_examine"}"#).await;
    assert_eq!(exchange(&mut stream, &delete("2", "x")).await, ok(json!(2)));
    send(&mut stream, &delete("3", "go")).await;
    let answered = [answer(&mut stream).await, answer(&mut stream).await];
    assert!(answered.contains(&ok(json!(1))) && answered.contains(&ok(json!(3))), "{answered:?}");
}

#[tokio::test(flavor = "local")]
async fn a_batch_is_answered_in_one_array_without_its_notifications() {
    let running = Running::start().await;
    let mut stream = running.connect().await;
    let notification = r#"{"jsonrpc":"2.0","method":"bdev_malloc_delete","params":{"name":"n"}}"#;
    let batch = format!(r#"[{},{notification},{{"id":2,"method":"nope"}},7]"#, delete("1", "a"));
    let missing =
        json!({"jsonrpc": "2.0", "id": 2, "error": {"code": -32601, "message": "Method not found"}});
    assert_eq!(exchange(&mut stream, &batch).await, json!([ok(json!(1)), missing, invalid()]));
    // Nothing is sent for notifications alone: the next answer is that of the next request.
    send(&mut stream, notification).await;
    send(&mut stream, &format!("[{notification}]")).await;
    send(&mut stream, r#"{"id":null,"method":"bdev_malloc_delete","params":{"name":"n"}}"#).await;
    assert_eq!(exchange(&mut stream, &delete("3", "a")).await, ok(json!(3)));
    assert_eq!(exchange(&mut stream, "[]").await, invalid());
}

#[tokio::test(flavor = "local")]
async fn what_is_no_request_is_answered_and_the_connection_stays() {
    let running = Running::start().await;
    let mut stream = running.connect().await;
    for text in [
        r#"{"jsonrpc":"2.0","id":7}"#,
        r#"{"jsonrpc":"1.0","id":5,"method":"bdev_malloc_delete"}"#,
        r#"{"jsonrpc":"2.0","id":9,"method":5}"#,
        r#"{"jsonrpc":"2.0","id":{},"method":"bdev_malloc_delete"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"bdev_malloc_delete","params":"a"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"bdev_malloc_delete","more":1}"#,
    ] {
        assert_eq!(exchange(&mut stream, text).await, invalid(), "{text}");
    }
    assert_eq!(exchange(&mut stream, &delete("1", "a")).await, ok(json!(1)));
}

#[tokio::test(flavor = "local")]
async fn malformed_json_closes_the_connection_and_no_other() {
    let running = Running::start().await;
    let mut other = running.connect().await;
    for text in [r#"{"jsonrpc": nope}"#, "nope", "{]", "\"text\""] {
        let mut stream = running.connect().await;
        send(&mut stream, text).await;
        let mut rest = Vec::new();
        assert_eq!(stream.read_to_end(&mut rest).await.unwrap(), 0, "{text}");
    }
    assert_eq!(exchange(&mut other, &delete("1", "a")).await, ok(json!(1)));
}

#[tokio::test(flavor = "local")]
async fn a_peer_that_only_stops_sending_still_gets_its_answers() {
    let running = Running::start().await;
    let mut stream = running.connect().await;
    send(&mut stream, r#"{"id":1,"method":"bdev_wait_for_examine"}"#).await;
    stream.shutdown().await.unwrap();
    let mut other = running.connect().await;
    assert_eq!(exchange(&mut other, &delete("2", "go")).await, ok(json!(2)));
    assert_eq!(answer(&mut stream).await, ok(json!(1)));
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test(flavor = "local")]
async fn stopping_answers_what_is_in_flight_and_removes_the_socket() {
    let running = Running::start().await;
    let mut stream = running.connect().await;
    send(&mut stream, r#"{"id":1,"method":"bdev_wait_for_examine"}"#).await;
    let mut other = running.connect().await;
    assert_eq!(exchange(&mut other, &delete("2", "a")).await, ok(json!(2)));
    send(&mut other, &delete("3", "go")).await;
    assert_eq!(answer(&mut other).await, ok(json!(3)));
    running.app.shutdown().cancel();
    assert_eq!(answer(&mut stream).await, ok(json!(1)));
    let path = running.path();
    running.serving.await.unwrap();
    assert!(!path.exists());
    assert_eq!(std::fs::read_dir(running.dir.path()).unwrap().count(), 0, "the lock file stayed");
}

#[tokio::test(flavor = "local")]
async fn a_socket_in_use_is_not_taken_and_a_stale_one_is() {
    let running = Running::start().await;
    assert!(matches!(Server::bind(&running.path()).await, Err(BindError::InUse { .. })));
    let mut stream = running.connect().await;
    assert_eq!(exchange(&mut stream, &delete("1", "a")).await, ok(json!(1)));

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rpc.sock");
    // Somebody who knows nothing of the lock file listens there.
    let foreign = std::os::unix::net::UnixListener::bind(&path).unwrap();
    assert!(matches!(Server::bind(&path).await, Err(BindError::InUse { .. })));
    drop(foreign);
    assert!(path.exists(), "a socket file outlives its listener");
    let server = Server::bind(&path).await.unwrap();
    drop(server);

    std::fs::write(&path, "data").unwrap();
    assert!(matches!(Server::bind(&path).await, Err(BindError::NotASocket { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"data");
}

/// Sends `call` again and again until the socket is full and `begun` does not change any more; how many were sent whole.
async fn flood(stream: &UnixStream, call: &str, begun: impl Fn() -> usize) -> usize {
    let text = call.repeat(16);
    let mut sent = 0;
    loop {
        let before = begun();
        // Every chance for the server to go on.
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
        match stream.try_write(&text.as_bytes()[sent % call.len()..]) {
            Ok(n) => sent += n,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock && begun() == before => {
                return sent / call.len();
            }
            Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::WouldBlock, "{e}"),
        }
    }
}

#[tokio::test(flavor = "local")]
async fn a_peer_that_does_not_read_gets_no_more_calls_started() {
    // Each answer is 64 KiB: far fewer of them than of calls that may be in flight.
    let dir = tempfile::tempdir().unwrap();
    let server = Server::bind(&dir.path().join("rpc.sock")).await.unwrap();
    let app = App::new(LogLevels::new(LogLevel::Notice, |_| {}));
    let mut methods = Methods::default();
    let begun = Rc::new(std::cell::Cell::new(0));
    let count = Rc::clone(&begun);
    methods.method::<vda_spdk::RpcGetMethods>(State::Any, async move |_, _| {
        count.set(count.get() + 1);
        Ok(vec!["m".repeat(64 << 10)])
    });
    tokio::task::spawn_local(server.serve(Rc::clone(&app), Rc::new(methods)));
    let mut stream = UnixStream::connect(dir.path().join("rpc.sock")).await.unwrap();
    // Long, so that few of them fill the socket.
    let call = format!(r#"{{"jsonrpc":"2.0","id":1,{:4096}"method":"rpc_get_methods"}}"#, "");
    let sent = flood(&stream, &call, || begun.get()).await;
    // 1 MiB that waits, and what the kernel takes of what is being written: not all that were sent, let alone all that may be in flight.
    assert!(begun.get() < 64 && sent > begun.get() + 8, "{} of {sent} calls were begun", begun.get());
    // As soon as it reads, it goes on, and every call that was sent whole is answered.
    let mut lines = 0;
    let mut buffer = vec![0; 1 << 20];
    while lines < sent {
        let n = stream.read(&mut buffer).await.unwrap();
        assert_ne!(n, 0, "closed");
        lines += buffer[..n].iter().filter(|b| **b == b'\n').count();
    }
    assert_eq!(begun.get(), sent);
}

#[tokio::test(flavor = "local")]
async fn connections_beyond_the_limit_wait_to_be_accepted() {
    let running = Running::start().await;
    let mut open = Vec::new();
    for i in 0..MAX_CONNECTIONS {
        let mut stream = running.connect().await;
        assert_eq!(exchange(&mut stream, &delete("1", "m")).await, ok(json!(1)), "connection {i}");
        open.push(stream);
    }
    let mut waiting = running.connect().await;
    send(&mut waiting, &delete("2", "m")).await;
    // Those that are served go on, and the one that waits is not.
    assert_eq!(exchange(&mut open[0], &delete("3", "m")).await, ok(json!(3)));
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    assert!(waiting.get_ref().try_read(&mut [0]).is_err(), "not served yet");
    open.pop();
    assert_eq!(answer(&mut waiting).await, ok(json!(2)));
}

/// A server with one method, `rpc_get_methods`, that counts its calls and answers what `reply` gives.
async fn counting<F: Future<Output = Vec<String>> + 'static>(
    reply: impl Fn() -> F + Clone + 'static,
) -> (tempfile::TempDir, Rc<std::cell::Cell<usize>>, BufReader<UnixStream>) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::bind(&dir.path().join("rpc.sock")).await.unwrap();
    let app = App::new(LogLevels::new(LogLevel::Notice, |_| {}));
    let mut methods = Methods::default();
    let begun = Rc::new(std::cell::Cell::new(0));
    let count = Rc::clone(&begun);
    methods.method::<vda_spdk::RpcGetMethods>(State::Any, async move |_, _| {
        count.set(count.get() + 1);
        Ok(reply().await)
    });
    tokio::task::spawn_local(server.serve(app, Rc::new(methods)));
    let stream = UnixStream::connect(dir.path().join("rpc.sock")).await.unwrap();
    (dir, begun, BufReader::new(stream))
}

fn batch(calls: usize) -> String {
    format!("[{}]", vec![r#"{"id":1,"method":"rpc_get_methods"}"#; calls].join(","))
}

#[tokio::test(flavor = "local")]
async fn a_batch_has_no_more_calls_than_may_be_in_flight() {
    let (_dir, begun, mut stream) = counting(|| std::future::ready(Vec::new())).await;
    let refusal = exchange(&mut stream, &batch(1025)).await;
    assert_eq!((&refusal["error"]["code"], &refusal["id"]), (&json!(-32600), &Value::Null));
    assert_eq!(begun.get(), 0, "none of it was done");
    assert_eq!(exchange(&mut stream, &batch(1024)).await.as_array().unwrap().len(), 1024);
    assert_eq!(begun.get(), 1024);
}

#[tokio::test(flavor = "local")]
async fn calls_of_batches_are_in_flight_like_others() {
    let go = Rc::new(Semaphore::new(0));
    let gate = Rc::clone(&go);
    let reply = move || {
        let gate = Rc::clone(&gate);
        async move {
            gate.acquire().await.unwrap().forget();
            Vec::new()
        }
    };
    let (_dir, begun, mut stream) = counting(reply).await;
    send(&mut stream, &(batch(1000) + &batch(24) + &batch(25))).await;
    while begun.get() < 1024 {
        tokio::task::yield_now().await;
    }
    // Every chance for the third one to begin.
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    assert_eq!(begun.get(), 1024);
    go.add_permits(1000 + 24 + 25);
    let mut answered = [0; 3];
    for n in &mut answered {
        *n = answer(&mut stream).await.as_array().unwrap().len();
    }
    answered.sort_unstable();
    assert_eq!((answered, begun.get()), ([24, 25, 1000], 1049));
}

#[tokio::test(flavor = "local")]
async fn a_batch_is_not_answered_with_more_than_is_kept_for_it() {
    let (_dir, begun, mut stream) = counting(|| std::future::ready(vec!["m".repeat(1 << 20)])).await;
    send(&mut stream, &batch(31)).await;
    // Not as JSON: that takes seconds without optimisation.
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line).await.unwrap();
    assert!(line.starts_with(b"[{") && line.ends_with(b"}]\n") && line.len() > 31 << 20);
    let refusal = exchange(&mut stream, &batch(33)).await;
    assert_eq!((&refusal["error"]["code"], &refusal["id"]), (&json!(-32603), &Value::Null));
    // The connection goes on.
    assert_eq!(exchange(&mut stream, &batch(1)).await.as_array().unwrap().len(), 1);
    assert_eq!(begun.get(), 31 + 33 + 1);
}

#[tokio::test(flavor = "local")]
async fn a_request_that_is_too_long_ends_the_connection_and_no_other() {
    let running = Running::start().await;
    let mut other = running.connect().await;
    let mut stream = running.connect().await;
    // Just fits.
    let call = delete("1", "a");
    let fits = format!("{{{}{}", " ".repeat((1 << 20) - call.len()), &call[1..]);
    assert_eq!(exchange(&mut stream, &fits).await, ok(json!(1)));
    // Never ends. What is written when the server has gone fails.
    let endless = format!(r#"{{"id":1,"method":"{}"#, "m".repeat(2 << 20));
    let (sent, received) =
        (stream.get_mut().write_all(endless.as_bytes()).await, stream.read(&mut [0]).await);
    assert!(sent.is_err() || !matches!(received, Ok(1..)), "{sent:?} {received:?}");
    assert_eq!(exchange(&mut other, &delete("2", "a")).await, ok(json!(2)));
}
