use std::net::Ipv4Addr;

use socket2::SockRef;

use super::*;

#[tokio::test(flavor = "current_thread")]
async fn who_is_gone_without_a_word_is_noticed_without_keep_alive() {
    let listener = listen((Ipv4Addr::LOCALHOST, 0).into(), 1).expect("listens");
    let address = listener.local_addr().expect("bound");
    let (_host, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (stream, _) = accepted.expect("accepted");
    let socket = SockRef::from(&stream);
    assert!(socket.keepalive().expect("option"));
    assert_eq!(socket.tcp_keepalive_time().expect("option"), PROBE_AFTER);
    assert_eq!(socket.tcp_keepalive_interval().expect("option"), PROBE_EVERY);
    assert_eq!(socket.tcp_keepalive_retries().expect("option"), PROBES);
}
