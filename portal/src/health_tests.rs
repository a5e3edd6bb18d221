use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus as Answer, health_client::HealthClient,
};

use super::*;

#[tokio::test]
async fn before_etcd_was_asked_nothing_is_serving_and_nothing_unknown() {
    let (_reporter, service) = service().await;
    let mut client = HealthClient::new(service);
    for name in ["", SERVICE_NAME] {
        let reply = client.check(HealthCheckRequest { service: name.into() }).await;
        assert_eq!(reply.unwrap().into_inner().status(), Answer::NotServing, "{name:?}");
    }
}
