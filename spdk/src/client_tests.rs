use std::path::Path;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::*;
use crate::framing::Framer;
use crate::{BdevGetBdevs, BdevMallocCreate, BdevMallocDelete, FrameworkGetConfig, SpdkGetVersion};

const PATIENCE: Duration = Duration::from_secs(60);

/// The target's end of a connection, driven by hand.
struct Peer {
    stream: UnixStream,
    framer: Framer,
}

impl Peer {
    async fn accept(listener: &UnixListener) -> Self {
        Self { stream: listener.accept().await.unwrap().0, framer: Framer::new(1 << 20) }
    }

    async fn request(&mut self) -> Value {
        loop {
            if let Some(value) = self.framer.next_value().unwrap() {
                return serde_json::from_slice(value).unwrap();
            }
            assert_ne!(self.stream.read_buf(self.framer.buffer()).await.unwrap(), 0, "the client closed");
        }
    }

    async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    async fn answer(&mut self, request: &Value, result: Value) {
        self.send(&json!({"jsonrpc": "2.0", "id": request["id"], "result": result}).to_string()).await;
    }
}

fn setup() -> (tempfile::TempDir, UnixListener, Client) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("target.sock");
    let listener = UnixListener::bind(&path).unwrap();
    (dir, listener, client(&path))
}

fn client(path: &Path) -> Client {
    Client::new(path.to_str().unwrap(), PATIENCE)
}

fn delete(name: &str) -> BdevMallocDelete {
    BdevMallocDelete::new(name)
}

#[tokio::test]
async fn parameters_are_sent_as_given_and_left_out_when_there_are_none() {
    let (_dir, listener, client) = setup();
    let target = async {
        let mut peer = Peer::accept(&listener).await;
        let request = peer.request().await;
        assert_eq!(request["jsonrpc"], "2.0");
        assert_eq!(request["method"], "bdev_malloc_create");
        assert_eq!(request["params"], json!({"block_size": 512, "num_blocks": 8, "name": "m0"}));
        peer.answer(&request, json!("m0")).await;
        for method in ["bdev_get_bdevs", "spdk_get_version"] {
            let request = peer.request().await;
            assert_eq!(request["method"], method);
            assert_eq!(request.get("params"), None);
            peer.send(&format!(
                r#"{{"jsonrpc":"2.0","id":{},"error":{{"code":-19,"message":"No such device"}}}}"#,
                request["id"]
            ))
            .await;
        }
    };
    let calls = async {
        let call = BdevMallocCreate { name: Some("m0".into()), ..BdevMallocCreate::new(512u32, 8u64) };
        assert_eq!(client.call(call).await.unwrap(), "m0");
        assert!(client.call(BdevGetBdevs::default()).await.unwrap_err().is_not_found());
        assert!(client.call(SpdkGetVersion {}).await.unwrap_err().is_not_found());
    };
    tokio::join!(target, calls);
}

#[tokio::test]
async fn answers_find_their_calls_in_any_order_and_any_chunks() {
    let (_dir, listener, client) = setup();
    let target = async {
        let mut peer = Peer::accept(&listener).await;
        let first = peer.request().await;
        let second = peer.request().await;
        let answers = format!(
            r#"{{"jsonrpc":"2.0","id":{},"result":false}}{{"jsonrpc":"2.0","id":{},"result":true}}"#,
            second["id"], first["id"]
        );
        for byte in answers.as_bytes() {
            peer.stream.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!((&first["params"]["name"], &second["params"]["name"]), (&json!("a"), &json!("b")));
    };
    let calls = async { tokio::join!(client.call(delete("a")), client.call(delete("b"))) };
    let ((a, b), ()) = tokio::join!(calls, target);
    assert_eq!((a.unwrap(), b.unwrap()), (true, false));
    assert_eq!(client.epoch(), 1);
}

#[tokio::test]
async fn a_restarted_target_fails_calls_in_flight_and_is_reconnected_to() {
    let (dir, listener, client) = setup();
    let mut link = client.link();
    let die = async {
        let mut peer = Peer::accept(&listener).await;
        peer.request().await;
        peer.request().await;
    };
    let ((), a, b) = tokio::join!(die, client.call(delete("a")), client.call(delete("b")));
    for failed in [a, b] {
        let error = failed.unwrap_err();
        assert!(matches!(error, Error::Transport { .. }) && error.retryable(), "{error:?}");
    }
    assert_eq!(
        *link.wait_for(|link| !link.up && link.epoch > 0).await.unwrap(),
        Link { epoch: 1, up: false }
    );

    drop(listener);
    assert!(matches!(client.call(delete("c")).await.unwrap_err(), Error::Transport { .. }));
    assert_eq!(client.epoch(), 1, "an attempt that failed is no connection");

    std::fs::remove_file(dir.path().join("target.sock")).unwrap();
    let listener = UnixListener::bind(dir.path().join("target.sock")).unwrap();
    let live = async {
        let mut peer = Peer::accept(&listener).await;
        let request = peer.request().await;
        assert_eq!(request["params"]["name"], "d", "what failed before is not sent again");
        peer.answer(&request, json!(true)).await;
        peer
    };
    let (_peer, answered) = tokio::join!(live, client.call(delete("d")));
    assert!(answered.unwrap());
    assert_eq!(*link.borrow_and_update(), Link { epoch: 2, up: true });
}

#[tokio::test(start_paused = true)]
async fn a_silent_target_times_out_and_its_late_answer_is_dropped() {
    let (_dir, listener, client) = setup();
    let target = async {
        let mut peer = Peer::accept(&listener).await;
        let late = peer.request().await;
        let next = peer.request().await;
        peer.answer(&late, json!(false)).await;
        peer.answer(&next, json!(true)).await;
        peer
    };
    let calls = async {
        let error = client.with_timeout(Duration::from_secs(2)).call(delete("a")).await.unwrap_err();
        assert!(
            matches!(error, Error::Timeout { after, .. } if after == Duration::from_secs(2)),
            "{error:?}"
        );
        client.call(delete("b")).await
    };
    let (_peer, second) = tokio::join!(target, calls);
    assert!(second.unwrap());
    assert_eq!(client.epoch(), 1, "a timeout keeps the connection");
}

#[tokio::test]
async fn answers_that_are_none_break_the_connection_and_wrong_types_do_not() {
    let (_dir, listener, client) = setup();
    let target = async {
        let mut peer = Peer::accept(&listener).await;
        let request = peer.request().await;
        peer.answer(&request, json!({"unexpected": 1})).await;
        let request = peer.request().await;
        peer.answer(&request, Value::Null).await;
        peer.request().await;
        peer.send("garbage").await;
        peer
    };
    let calls = async {
        let error = client.call(delete("a")).await.unwrap_err();
        assert!(matches!(error, Error::Decode { .. }) && !error.retryable(), "{error:?}");
        assert_eq!(client.call(FrameworkGetConfig::new("x")).await.unwrap(), None);
        let error = client.call(delete("b")).await.unwrap_err();
        assert!(matches!(error, Error::Transport { .. }), "{error:?}");
    };
    tokio::join!(target, calls);
}

#[tokio::test]
async fn tcp_works_as_well() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::new(listener.local_addr().unwrap().to_string(), PATIENCE);
    let target = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut framer = Framer::new(1 << 20);
        loop {
            stream.read_buf(framer.buffer()).await.unwrap();
            if framer.next_value().unwrap().is_some() {
                break;
            }
        }
        stream.write_all(br#"{"jsonrpc":"2.0","id":1,"result":true}"#).await.unwrap();
        stream
    };
    let (_stream, answered) = tokio::join!(target, client.call(delete("a")));
    assert!(answered.unwrap());
}

#[test]
fn an_address_is_a_path_unless_it_has_a_port() {
    assert_eq!(Endpoint::parse("10.0.0.1:5260"), Endpoint::Tcp("10.0.0.1:5260".to_owned()));
    assert_eq!(Endpoint::parse("/var/tmp/a:1"), Endpoint::Unix("/var/tmp/a:1".into()));
    assert_eq!(Endpoint::parse("dn.sock"), Endpoint::Unix("dn.sock".into()));
    assert_eq!(Endpoint::parse("dn:sock"), Endpoint::Unix("dn:sock".into()));
}
