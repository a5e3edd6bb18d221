use std::convert::Infallible;

use tower::{Layer, Service};

use super::*;

async fn through_layer(header: Option<&str>) -> (Option<RequestId>, http::Response<()>) {
    let seen = std::sync::Arc::new(std::sync::Mutex::new(None));
    let inner = {
        let seen = seen.clone();
        tower::service_fn(move |_: http::Request<()>| {
            let seen = seen.clone();
            async move {
                tokio::task::yield_now().await;
                *seen.lock().unwrap() = current();
                Ok::<_, Infallible>(http::Response::new(()))
            }
        })
    };
    let mut request = http::Request::builder().uri("/vda.v1.Portal/CreateDa");
    if let Some(value) = header {
        request = request.header(HEADER, value);
    }
    let response = RequestIdLayer.layer(inner).call(request.body(()).unwrap()).await.unwrap();
    let seen = seen.lock().unwrap().clone();
    (seen, response)
}

#[tokio::test]
async fn the_callers_id_reaches_handler_and_answer() {
    let (seen, response) = through_layer(Some("abc-1")).await;
    assert_eq!(seen.unwrap().as_str(), "abc-1");
    assert_eq!(response.headers()[HEADER], "abc-1");
}

#[tokio::test]
async fn absent_or_unusable_ids_are_replaced() {
    for header in [None, Some("two words"), Some(""), Some(&"x".repeat(65) as &str)] {
        let (seen, response) = through_layer(header).await;
        let seen = seen.unwrap();
        assert_eq!(seen.as_str().len(), 32);
        assert_eq!(response.headers()[HEADER], seen.as_str());
    }
}

#[tokio::test]
async fn clients_send_the_current_id_on() {
    let id = RequestId::parse("req-7").unwrap();
    let sent = with_request_id(id, async { propagate(Request::new(())).unwrap() }).await;
    assert_eq!(sent.metadata().get(HEADER).unwrap(), "req-7");
}

#[test]
fn outside_a_request_clients_make_an_id() {
    let sent = propagate(Request::new(())).unwrap();
    assert_eq!(sent.metadata().get(HEADER).unwrap().len(), 32);
}

#[test]
fn an_explicit_id_stays() {
    let mut request = Request::new(());
    request.metadata_mut().insert(HEADER, "mine".parse().unwrap());
    assert_eq!(propagate(request).unwrap().metadata().get(HEADER).unwrap(), "mine");
}
